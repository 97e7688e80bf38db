/*
 * ndarray.h - NumPy's arrays, looked at without a call.
 *
 * The head of an array object is part of NumPy's binary interface (ndarraytypes.h,
 * PyArrayObject_fields), so that no copy of its headers is needed. It is compared with what the
 * buffer protocol says of an array before it is believed.
 *
 * Without a GIL another thread may change an array that is looked at. Then no array is known here,
 * and the callers use the buffer protocol.
 */
#ifndef BINDINGS_NDARRAY_H
#define BINDINGS_NDARRAY_H

#include <Python.h>

#include <stdint.h>

enum { MOST_ITEM_DIMENSIONS = 8 };

/* The items of a stream, as NumPy knows them. */
typedef struct items_type {
    uint64_t size;         /* bytes */
    Py_ssize_t dimensions; /* of an item itself */
    Py_ssize_t shape[MOST_ITEM_DIMENSIONS];
    PyObject *descr; /* the stream's own dtype; or NULL */
    PyObject *other; /* an equal one, of the last array that had another; or NULL */
} items_type;

/*
 * Takes the dtype of an array of these items, and compares its head with what is written here.
 * Returns whether they agree: otherwise the array can never be moved.
 */
int ndarray_learn(PyObject *array, items_type *items);
/* Notes the dtype of an object, if it is an array. It was found to have such items. */
void ndarray_note(PyObject *object, items_type *items);
void ndarray_forget(items_type *items);

/*
 * Returns where the items of an array are and how many; NULL if it is not an array in one piece of
 * just such items, or this is not known.
 */
char *ndarray_items(PyObject *array, const items_type *items, int writable, uint64_t *count);

/*
 * Makes an array show other items, which must belong to the same memory; 0 if somebody else uses
 * it, or it is no longer as it was made.
 */
int ndarray_move(PyObject *array, const items_type *items, int writable, char *data,
                 uint64_t count);

/* Makes an array read-only. */
void ndarray_seal(PyObject *array);

#endif
