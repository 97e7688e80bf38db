/*
 * types.h - the Python types of the core: what a message passes through.
 *
 *   MemoryCore     a heap, of which records are made       ipcheap._handle.Handle
 *   RecordCore     a record                                ipcheap.Record
 *   ProducerCore   the sending side of a record channel    ipcheap.Producer
 *   ConsumerCore   the receiving side                      ipcheap.Consumer
 *
 * A Python class builds on each. Here is what has to be fast: one call for a message, no
 * Python frame in it. All that is rare stands in the Python class, which the methods here
 * ask when something is not as usual: to wait, and for the exception to raise.
 *
 * The GIL keeps their members; where a call gives it up, a record says so in its state.
 */
#ifndef BINDINGS_TYPES_H
#define BINDINGS_TYPES_H

#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#include <ipcheap/ipcheap.h>

/* Not errors of the core's. */
enum {
    PY_NOT_BYTES = -100,    /* the object gives no plain run of bytes */
    PY_OTHER_FORM = -101,   /* the next record is of another form than the one wanted */
    PY_NOT_A_RECORD = -102, /* a record was wanted */
    PY_ENDED = -103,        /* the record is not ours any more: freed or sent */
    PY_VIEWED = -104,       /* it has views, which a debugging program is told of */
    PY_TWICE = -105,        /* it stands in a list twice */
    PY_RAISED = -106,       /* a Python exception has been set */
};
enum { PY_BATCH = 64, PY_PIECES = 0x316A626F /* "obj1" in memory */ };

typedef struct py_memory {
    PyObject_HEAD
    ipcheap_heap *heap; /* kept by the Python class; NULL for what is left of a closed heap */
} py_memory;

/* What becomes of a record, in this order. */
enum fate { OURS, KEPT, FREED, SENT };

typedef struct py_record {
    PyObject_HEAD
    ipcheap_record core;
    ipcheap_heap *heap;
    PyObject *source;       /* keeps the heap, and the consumer it came from */
    struct py_block *block; /* what its arrays are made of, once there are any */
    PyObject *layout;       /* what its array is made by, if it was allocated as one; or NULL */
    PyObject *weak_references;
    uint32_t forks; /* ipcheap_forks() when it was made: a child may not touch it */
    enum fate fate;
    Py_ssize_t slices; /* that views are made of; they keep this */
    int lingers; /* it is freed, and its memory when the last slice goes */
    int lent;    /* arrays that a loan has given out */
    int listed;  /* while a list is looked at: it has been met */
} py_record;

/*
 * What arrays of a record are made of and keep alive: a plain exporter of the buffer
 * protocol, with whose end the memory goes back, unless it has been sent.
 */
typedef struct py_block {
    PyObject_HEAD
    ipcheap_record core;
    ipcheap_heap *heap;
    PyObject *source;
    uint32_t forks; /* as a record's */
    int armed;
} py_block;

/* record.c */
PyObject *record_type(void);
void record_use_class(PyObject *subclass, PyObject *made);
PyObject *record_new(ipcheap_heap *heap, PyObject *source); /* its core to be filled in */
void record_drop(PyObject *object); /* one whose core is not, or not any more, its own */
int record_announce(PyObject *object); /* once its core is filled in; or an exception is set */
int record_outgoing(PyObject *object, ipcheap_heap *heap);
void record_sent(PyObject *object);
void record_unview(py_record *record); /* a slice of it goes */

/* block.c */
PyObject *block_new(const ipcheap_record *core, ipcheap_heap *heap, PyObject *source);

/* slice.c */

/* A memoryview of so many bytes of a record from `start` on, in steps of any length. */
PyObject *slice_view(py_record *record, Py_ssize_t start, Py_ssize_t length, Py_ssize_t step);
int slice_buffer(py_record *record, Py_buffer *view, int flags); /* of all of them */

/* memory.c */
PyObject *memory_type(void);
PyObject *memory_allocate(PyObject *memory, PyObject *nbytes);

/* bytes.c */

/* More than this is copied without the GIL. */
#define LONG_COPY ((size_t)256 << 10)

/* The bytes of an object, which is kept and cannot change its size until they are closed. */
typedef struct py_bytes {
    ipcheap_bytes plain;
    Py_buffer buffer;
    PyObject *owner; /* or else there is a buffer */
} py_bytes;
int bytes_open(py_bytes *bytes, PyObject *object); /* 0 or PY_NOT_BYTES */
void bytes_close(py_bytes *bytes);

/* For another process to read. */
void copy_bytes(ipcheap_heap *heap, void *to, const void *from, size_t nbytes);
int copy_in(ipcheap_heap *heap, PyObject *object, ipcheap_record *record);
PyObject *copy_out(const ipcheap_record *record);
int pack(ipcheap_heap *heap, PyObject *pieces, ipcheap_record *record);

/* producer.c, consumer.c */
PyObject *producer_type(void);
PyObject *consumer_type(void);

/* For tables of methods: one of keywords, and what inspect is told of one. */
#define NAMED(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS
#define SIGNATURE(text) text "\n--\n\n"

/* A type, made when it is first asked for; with the GIL held. */
PyObject *make_type(PyObject **type, PyType_Spec *spec);
/* Their instances' memory, and the reference that each of them has to its type. */
void give_back(PyObject *self);

#endif
