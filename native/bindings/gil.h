/*
 * gil.h - what the core's calls do with the GIL.
 *
 *   RELEASING  releases it: the call may sleep or run long
 *   KEEPING    keeps it; if the core returns WOULD_SLEEP, the call is repeated without the GIL
 *   holding_   keeps it, and returns WOULD_SLEEP to the caller
 *
 * Beside a busy Python thread, a call that releases the GIL costs tens of microseconds, and one
 * that keeps it 50 ns.
 */
#ifndef BINDINGS_GIL_H
#define BINDINGS_GIL_H

#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#include <ipcheap/ipcheap.h>

#include "segment/sleep.h"

/* Keeps errno for Python, as cffi does after each of its functions. */
void note_errno(void);

#define RELEASING(result, name, parameters, arguments) \
    static result py_##name parameters {               \
        PyThreadState *state = PyEval_SaveThread();    \
        result value = ipcheap_##name arguments;       \
        PyEval_RestoreThread(state);                   \
        return value;                                  \
    }

#define KEEPING(result, name, parameters, arguments)    \
    result keeping_##name parameters {                  \
        ipcheap_allow_sleep(0);                         \
        result value = ipcheap_##name arguments;        \
        ipcheap_allow_sleep(1);                         \
        if (value == IPCHEAP_SYSTEM) note_errno();      \
        if (value != IPCHEAP_WOULD_SLEEP) return value; \
        PyThreadState *state = PyEval_SaveThread();     \
        value = ipcheap_##name arguments;               \
        if (value == IPCHEAP_SYSTEM) note_errno();      \
        PyEval_RestoreThread(state);                    \
        return value;                                   \
    }

/*
 * Does the same for an endpoint, entered meanwhile: if another thread closes the heap, this call
 * closes the endpoint before it returns.
 */
#define KEEPING_ENDPOINT(result, name, parameters, endpoint, arguments) \
    result keeping_##name parameters {                                  \
        ipcheap_allow_sleep(0);                                         \
        result value = ipcheap_##name arguments;                        \
        ipcheap_allow_sleep(1);                                         \
        if (value == IPCHEAP_SYSTEM) note_errno();                      \
        if (value != IPCHEAP_WOULD_SLEEP) return value;                 \
        int error = ipcheap_endpoint_enter(endpoint);                   \
        if (error) return error;                                        \
        PyThreadState *state = PyEval_SaveThread();                     \
        value = ipcheap_##name arguments;                               \
        if (value == IPCHEAP_SYSTEM) note_errno();                      \
        ipcheap_endpoint_leave(endpoint);                               \
        PyEval_RestoreThread(state);                                    \
        return value;                                                   \
    }

int keeping_allocate(ipcheap_heap *heap, uint64_t nbytes, ipcheap_record *record);
int keeping_allocate_array(ipcheap_heap *heap, const void *description, size_t length,
                           ipcheap_record *record);
int keeping_free(ipcheap_heap *heap, ipcheap_record *record);
int keeping_keep(ipcheap_heap *heap, ipcheap_record *record);
int keeping_adopt(ipcheap_heap *heap, ipcheap_heap *from, ipcheap_record *record);
int keeping_try_send(ipcheap_endpoint *producer, ipcheap_record *record);
int64_t keeping_try_send_many(ipcheap_endpoint *producer, ipcheap_record *records, size_t count);
int64_t keeping_try_send_copies(ipcheap_endpoint *producer, const ipcheap_bytes *copied,
                                size_t count);
int keeping_try_receive(ipcheap_endpoint *consumer, ipcheap_record *record);
/* Calls the taker with the GIL held. Returns WOULD_SLEEP if the core does. */
int64_t holding_try_receive_copies(ipcheap_endpoint *consumer, ipcheap_taker *take, void *context,
                                   size_t limit);
int keeping_peek(ipcheap_endpoint *consumer, uint64_t *nbytes, uint32_t *form);
int keeping_endpoint_descriptor(ipcheap_endpoint *endpoint);

#endif
