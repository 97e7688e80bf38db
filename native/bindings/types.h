/*
 * types.h - the Python types of the core, through which every message passes.
 *
 *   MemoryCore     a heap, which makes records             ipcheap._handle.Handle
 *   RecordCore     a record                                ipcheap.Record
 *   ProducerCore   the sending side of a record channel    ipcheap.Producer
 *   ConsumerCore   the receiving side                      ipcheap.Consumer
 *   WriterCore     the writing side of a stream            ipcheap.StreamWriter
 *   ReaderCore     the reading side                        ipcheap.StreamReader
 *   StoreWriterCore, StoreReaderCore   the sides of a store    ipcheap.StoreWriter, StoreReader
 *   ChunkCore      what a reader of a store holds          ipcheap.Chunk
 *   BusCore        a bus, to which any thread posts        ipcheap.Bus
 *   BlocksCore     its windows, one after the other        ipcheap.stream.Blocks
 *
 * A Python class is built on each. What has to be fast is here: one call for each message,
 * without a Python frame. Everything rare is in the Python class, whose methods are called from
 * here to wait and to raise exceptions.
 *
 * The GIL protects the members, or LOCK() of gil.h where there is none. While a call has released
 * it, the record's `fate` says already what is becoming of the record. An endpoint's members are set
 * when it is made, and changed by calls that the core grants to its thread alone.
 */
#ifndef BINDINGS_TYPES_H
#define BINDINGS_TYPES_H

#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#include <ipcheap/ipcheap.h>

/* Errors of the bindings, beside the core's. */
enum {
    PY_NOT_BYTES = -100,    /* the object has no contiguous buffer of bytes */
    PY_OTHER_FORM = -101,   /* the next record is of another form than the one wanted */
    PY_NOT_A_RECORD = -102, /* a record was wanted */
    PY_ENDED = -103,        /* the record was freed or sent */
    PY_VIEWED = -104,       /* it has views, which is an error when debugging */
    PY_TWICE = -105,        /* the record stands in a list twice */
    PY_RAISED = -106,       /* a Python exception has been set */
    PY_OBJECTS = -107,      /* the bytes are addresses of Python objects */
    PY_NOT_WHOLE = -108,    /* the bytes are no whole number of items */
    PY_FILLING = -109,      /* an assignment is writing to the record */
};
enum { PY_BATCH = 64, PY_PIECES = 0x316A626F /* "obj1" in memory */ };

typedef struct py_memory {
    PyObject_HEAD
    ipcheap_heap *heap; /* owned by the Python class; NULL for a closed heap's name */
} py_memory;

/* What has become of a record. From FREED on it cannot be used. */
enum fate { OURS, KEPT, FREED, SENT };

typedef struct py_record {
    PyObject_HEAD
    ipcheap_record core;
    ipcheap_heap *heap;
    PyObject *source;       /* the heap or the consumer that it came from, kept alive */
    struct py_block *block; /* what its arrays are made of; NULL until there is one */
    PyObject *layout;       /* makes the array of a record that was allocated as one; or NULL */
    PyObject *weak_references;
    uint32_t forks; /* ipcheap_forks() when it was made: a child may not touch it */
    enum fate fate;
    Py_ssize_t slices;      /* of views; each keeps the record alive */
    int fills;              /* assignments that are writing to it: it cannot be sent meanwhile */
    int lingers;            /* the record is freed, the memory will be with the last slice */
    int lent;               /* arrays that a loan has given out */
    int readonly;           /* a message of a bus, which others hear, too */
    const PyObject *listed; /* a list that is being checked, in which it was met */
    enum fate before;       /* while a transaction of a store has it */
} py_record;

/*
 * What arrays of a record are made of and keep alive: a plain exporter of the buffer protocol.
 * When it goes, the memory is freed, unless the record was sent.
 */
typedef struct py_block {
    PyObject_HEAD
    ipcheap_record core;
    ipcheap_heap *heap;
    PyObject *source;
    uint32_t forks; /* as for a record */
    int armed;      /* it frees the memory */
    int readonly;   /* as for a record */
} py_block;

/* record.c */
PyObject *record_type(void);
void record_use_class(PyObject *subclass, PyObject *made);
PyObject *record_new(ipcheap_heap *heap, PyObject *source); /* the caller fills in its core */
/* The same for what listeners of a bus receive: instances of another class, and read-only. */
void message_use_class(PyObject *subclass);
PyObject *message_new(ipcheap_heap *heap, PyObject *source);
void record_drop(PyObject *object);    /* drops a record that does not own its core */
int record_announce(PyObject *object); /* once its core is filled in; -1 with an exception */
void record_unview(py_record *record); /* a slice of the record, which is locked, goes */

/* Returns 0 if an object is a record that can be sent in a heap, or why not. */
int record_outgoing(PyObject *object, ipcheap_heap *heap);
/* Does the same, and notes that it was met in a list: PY_TWICE the second time. */
int record_list(PyObject *object, ipcheap_heap *heap, const PyObject *list);
void record_unlist(PyObject *object, const PyObject *list);
/*
 * Marks a record as sent before the call that sends it, which may release the GIL: other threads see
 * that, and leave its core alone. Returns 0, or why it cannot be sent.
 */
int record_is(PyObject *object);
int record_begin_sending(PyObject *object, ipcheap_heap *heap, enum fate *before);
/* After the call. The views of a record that was sent stay, but do not keep the memory any longer. */
void record_end_sending(PyObject *object, int sent, enum fate before);

/* block.c */
PyObject *block_new(const ipcheap_record *core, ipcheap_heap *heap, PyObject *source, int readonly);
/* Returns the description of a record's array, as bytes, or the core's error as a number. */
PyObject *description_of(ipcheap_heap *heap, const ipcheap_record *record, uint32_t forks);
/* Exports the array that the `_typed()` of an array record, or chunk, returns. */
int typed_buffer(PyObject *object, Py_buffer *view, int flags);

/* slice.c */

/* Returns a memoryview of `length` bytes of a record from `start` on, in steps of any length. */
PyObject *slice_view(py_record *record, Py_ssize_t start, Py_ssize_t length, Py_ssize_t step);
int slice_buffer(py_record *record, Py_buffer *view, int flags); /* of all bytes */

/* memory.c */
PyObject *memory_type(void);
PyObject *memory_allocate(PyObject *memory, PyObject *nbytes);
/* Returns a record with copies of a sequence of bytes-like objects, or the core's error. */
PyObject *memory_pack(PyObject *memory, PyObject *pieces);

/* bytes.c */

/* Copies of so many bytes or more are made without the GIL. */
#define LONG_COPY ((size_t)256 << 10)

/* The bytes of an object, which stays alive and cannot change its size until bytes_close(). */
typedef struct py_bytes {
    ipcheap_bytes plain;
    Py_buffer buffer;
    PyObject *owner; /* if NULL, the buffer is the owner */
} py_bytes;
int bytes_open(py_bytes *bytes, PyObject *object); /* 0, PY_NOT_BYTES or PY_OBJECTS */
void bytes_close(py_bytes *bytes);

/* For another process to read. */
void copy_bytes(ipcheap_heap *heap, void *to, const void *from, size_t nbytes);
int copy_in(ipcheap_heap *heap, PyObject *object, ipcheap_record *record);
PyObject *copy_out(const ipcheap_record *record);
int pack(ipcheap_heap *heap, PyObject *pieces, ipcheap_record *record);
/* Returns a copy of the only piece of what was packed, if it is short; None for any other record. */
PyObject *short_piece(const ipcheap_record *record);

/* producer.c, consumer.c */
PyObject *producer_type(void);
PyObject *consumer_type(void);

/* bus.c */
PyObject *bus_type(void);

/* stream.c */
PyObject *writer_type(void);
PyObject *reader_type(void);
PyObject *blocks_type(void);

/* store.c */
PyObject *store_writer_type(void);
PyObject *store_reader_type(void);
PyObject *follow_type(void);

/* For tables of methods: a method with keywords, and its signature for inspect. */
#define NAMED(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS
#define SIGNATURE(text) text "\n--\n\n"

/* Returns a type, and makes it in the first call; any thread may call. */
PyObject *make_type(PyObject *_Atomic *type, PyType_Spec *spec);
/* Frees an instance of such a type, and its reference to the type. */
void give_back(PyObject *self);

#endif
