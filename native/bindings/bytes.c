/* bytes.c - copies bytes-like objects into records, and records into bytes. */
#include "types.h"

#include <string.h>

#include "gil.h"

/* Whether a format of the buffer protocol has the letter of objects outside of fields' names. */
static int names_objects(const char *format) {
    int in_name = 0;
    for (; *format; format++) {
        if (*format == ':') in_name = !in_name;
        if (*format == 'O' && !in_name) return 1;
    }
    return 0;
}

/*
 * Whether the items of a buffer are Python objects, or have fields that are. Only called for items
 * that have room for one. NumPy says so by the dtype: some of its dtypes have no format.
 */
static int holds_objects(PyObject *object) {
    static PyObject *_Atomic dtype_name,
        *_Atomic hasobject_name; /* the process's, like the types */
#ifndef Py_GIL_DISABLED          /* it would need a lock */
    static PyObject *plain;      /* the last dtype that holds none */
#endif
    if (!dtype_name) dtype_name = PyUnicode_InternFromString("dtype");
    if (!hasobject_name) hasobject_name = PyUnicode_InternFromString("hasobject");
    PyObject *dtype = PyMemoryView_Check(object) ? NULL : PyObject_GetAttr(object, dtype_name);
#ifndef Py_GIL_DISABLED
    if (dtype && dtype == plain) {
        Py_DECREF(dtype);
        return 0;
    }
#endif
    PyObject *answer = dtype ? PyObject_GetAttr(dtype, hasobject_name) : NULL;
    int found = answer == Py_True;
#ifndef Py_GIL_DISABLED
    if (answer == Py_False) {
        PyObject *before = plain;
        plain = Py_NewRef(dtype);
        Py_XDECREF(before);
    }
#endif
    Py_XDECREF(dtype);
    Py_XDECREF(answer);
    PyErr_Clear();
    if (answer) return found;
    Py_buffer described;
    if (PyObject_GetBuffer(object, &described, PyBUF_ND | PyBUF_FORMAT) == 0) {
        found = described.format && names_objects(described.format);
        PyBuffer_Release(&described);
    }
    PyErr_Clear();
    return found;
}

int bytes_open(py_bytes *bytes, PyObject *object) {
    bytes->owner = NULL;
    if (PyBytes_Check(object)) {
        bytes->owner = Py_NewRef(object);
        bytes->plain = (ipcheap_bytes){PyBytes_AsString(object), (uint64_t)PyBytes_Size(object)};
        return 0;
    }
    if (PyObject_GetBuffer(object, &bytes->buffer, PyBUF_SIMPLE) != 0) {
        PyErr_Clear(); /* the caller finds out what is wrong with the object */
        return PY_NOT_BYTES;
    }
    if (bytes->buffer.itemsize >= (Py_ssize_t)sizeof(PyObject *) && holds_objects(object)) {
        PyBuffer_Release(&bytes->buffer);
        return PY_OBJECTS;
    }
    bytes->plain = (ipcheap_bytes){bytes->buffer.buf, (uint64_t)bytes->buffer.len};
    return 0;
}

void bytes_close(py_bytes *bytes) {
    if (bytes->owner)
        Py_DECREF(bytes->owner);
    else
        PyBuffer_Release(&bytes->buffer);
}

/* Without a heap, for this process only. */
static void copy_without_gil(ipcheap_heap *heap, void *to, const void *from, size_t nbytes) {
    PyThreadState *state = PyEval_SaveThread();
    if (heap)
        ipcheap_copy(heap, to, from, nbytes);
    else
        memcpy(to, from, nbytes);
    PyEval_RestoreThread(state);
}

void copy_bytes(ipcheap_heap *heap, void *to, const void *from, size_t nbytes) {
    if (nbytes < LONG_COPY)
        ipcheap_copy(heap, to, from, nbytes);
    else
        copy_without_gil(heap, to, from, nbytes);
}

/* Allocates a record with a copy of an object's bytes. */
int copy_in(ipcheap_heap *heap, PyObject *object, ipcheap_record *record) {
    py_bytes bytes;
    int error = bytes_open(&bytes, object);
    if (error) return error;
    error = keeping_allocate(heap, bytes.plain.nbytes, record);
    if (!error) copy_bytes(heap, record->data, bytes.plain.data, bytes.plain.nbytes);
    bytes_close(&bytes);
    return error;
}

/*
 * A record of the form IPCHEAP_OBJECT begins with a magic number (4 bytes), the number of pieces
 * (4) and their lengths (8 each). The pieces follow, each at the next multiple of 64.
 */
static uint64_t next_piece(uint64_t end) { return (end + 63) / 64 * 64; }

static int measure_pieces(PyObject *pieces, uint64_t *nbytes) {
    Py_ssize_t count = PyList_Size(pieces);
    *nbytes = 8 + 8 * (uint64_t)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        py_bytes bytes;
        int error = bytes_open(&bytes, PyList_GetItem(pieces, i));
        if (error) return error;
        *nbytes = next_piece(*nbytes) + bytes.plain.nbytes;
        bytes_close(&bytes);
    }
    return 0;
}

/*
 * Fails if the pieces do not fit any more: another thread may have made one longer since they
 * were measured.
 */
static int copy_pieces(ipcheap_heap *heap, const ipcheap_record *record, PyObject *pieces) {
    Py_ssize_t count = PyList_Size(pieces);
    const uint32_t head[2] = {PY_PIECES, (uint32_t)count};
    uint64_t *lengths = (uint64_t *)record->data + 1, end = 8 + 8 * (uint64_t)count;
    int error = 0;
    memcpy(record->data, head, sizeof head);
    for (Py_ssize_t i = 0; i < count && !error; i++) {
        py_bytes bytes;
        error = bytes_open(&bytes, PyList_GetItem(pieces, i));
        if (error) return error;
        uint64_t at = next_piece(end);
        if (at > record->nbytes || bytes.plain.nbytes > record->nbytes - at) {
            error = PY_NOT_BYTES;
        } else {
            copy_bytes(heap, (char *)record->data + at, bytes.plain.data, bytes.plain.nbytes);
            lengths[i] = bytes.plain.nbytes;
            end = at + bytes.plain.nbytes;
        }
        bytes_close(&bytes);
    }
    return error;
}

/* Allocates a record with copies of the bytes-like objects in a list. */
int pack(ipcheap_heap *heap, PyObject *pieces, ipcheap_record *record) {
    uint64_t nbytes;
    int error = measure_pieces(pieces, &nbytes);
    if (!error) error = keeping_allocate(heap, nbytes, record);
    if (error) return error;
    error = copy_pieces(heap, record, pieces);
    if (error) keeping_free(heap, record);
    record->form = IPCHEAP_OBJECT;
    return error;
}

#define SHORT_PIECE ((uint64_t)16 << 10) /* up to here a copy costs less than a view */

PyObject *short_piece(const ipcheap_record *record) {
    const char *from = record->data;
    uint32_t head[2] = {0};
    uint64_t length = 0, end = sizeof head + sizeof length, at = next_piece(end);
    if (record->form == IPCHEAP_OBJECT && record->nbytes >= at) {
        memcpy(head, from, sizeof head);
        memcpy(&length, from + sizeof head, sizeof length);
    }
    int is_one = head[0] == PY_PIECES && head[1] == 1;
    if (!is_one || length > SHORT_PIECE || length > record->nbytes - at) Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(from + at, (Py_ssize_t)length);
}

/* Returns a copy of the record's bytes. */
PyObject *copy_out(const ipcheap_record *record) {
    size_t nbytes = (size_t)record->nbytes;
    int long_one = nbytes >= LONG_COPY;
    PyObject *bytes = PyBytes_FromStringAndSize(long_one ? NULL : record->data, (Py_ssize_t)nbytes);
    if (bytes && long_one) copy_without_gil(NULL, PyBytes_AsString(bytes), record->data, nbytes);
    return bytes;
}
