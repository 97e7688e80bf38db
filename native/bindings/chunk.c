/*
 * chunk.c - the Python types of what a reader of a store holds.
 *
 *   ChunkCore   a chunk; has the hold itself until its memory is asked for
 *   Grip        the hold, for views and arrays, which keep it alive: a read-only exporter
 */
#include "chunk.h"

#include "gil.h"
#include "pool.h"

#include <structmember.h>

#include <string.h>

typedef struct py_grip {
    PyObject_HEAD
    ipcheap_chunk core; /* without data: the hold has ended */
    ipcheap_heap *heap;
    PyObject *source; /* keeps the heap mapped */
    uint32_t forks;   /* ipcheap_forks() when it was made: a child may not release it */
} py_grip;

typedef struct py_chunk {
    PyObject_HEAD
    ipcheap_chunk core; /* without data: the hold is the grip's, or has ended */
    ipcheap_heap *heap;
    PyObject *source;
    PyObject *key; /* NULL: not known yet */
    py_grip *grip; /* NULL: nothing has asked for the memory, or the chunk was released */
    uint32_t forks;
} py_chunk;

/* The Python class that chunks are instances of; never released. */
static PyTypeObject *_Atomic chunk_class;
static struct pool chunks = {.size = sizeof(py_chunk)};
static struct pool grips = {.size = sizeof(py_grip)};

static int end_hold(ipcheap_chunk *core, uint32_t forks) {
    if (!core->data || forks != ipcheap_forks()) return 0;
    return END_HOLD(core);
}

PyObject *key_object(const ipcheap_store_key *key) {
    uint64_t number;
    switch (key->kind) {
    case IPCHEAP_KEY_INT:
        memcpy(&number, key->bytes, sizeof number);
        return PyLong_FromUnsignedLongLong(number);
    case IPCHEAP_KEY_TEXT:
        return PyUnicode_DecodeUTF8(key->bytes, key->length, "replace");
    case IPCHEAP_KEY_BYTES:
        return PyBytes_FromStringAndSize(key->bytes, key->length);
    default:
        Py_RETURN_NONE;
    }
}

/* Grips ---------------------------------------------------------------------------------- */

static int grip_get_buffer(PyObject *self, Py_buffer *view, int flags) {
    py_grip *from = (py_grip *)self;
    return PyBuffer_FillInfo(view, self, chunk_bytes(&from->core), (Py_ssize_t)from->core.nbytes, 1,
                             flags);
}

static Py_ssize_t grip_length(PyObject *self) { return (Py_ssize_t)((py_grip *)self)->core.nbytes; }

static void grip_dealloc(PyObject *self) {
    py_grip *gone = (py_grip *)self;
    end_hold(&gone->core, gone->forks);
    Py_XDECREF(gone->source);
    pool_return(&grips, self);
}

static PyObject *grip_form(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(((py_grip *)self)->core.form);
}

static ipcheap_record record_of(const py_grip *of) {
    return (ipcheap_record){
        .data = chunk_bytes(&of->core),
        .nbytes = of->core.nbytes,
        .offset = of->core.offset,
        .form = of->core.form,
    };
}

/* Returns the description of the chunk's array, as bytes, or the core's error as a number. */
static PyObject *grip_description(PyObject *self, PyObject *unused) {
    (void)unused;
    const py_grip *of = (py_grip *)self;
    ipcheap_record record = record_of(of);
    return description_of(of->heap, &record, of->forks);
}

static PyObject *grip_short_piece(PyObject *self, PyObject *unused) {
    (void)unused;
    ipcheap_record record = record_of((py_grip *)self);
    return short_piece(&record);
}

static PyObject *grip_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"description", grip_description, METH_NOARGS, SIGNATURE("description($self, /)")},
        {"short_piece", grip_short_piece, METH_NOARGS, SIGNATURE("short_piece($self, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef properties[] = {
        {"form", grip_form, NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)grip_dealloc},
        {Py_bf_getbuffer, (void *)grip_get_buffer},
        {Py_sq_length, (void *)grip_length},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.Grip",
        .basicsize = sizeof(py_grip),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

PyObject *grip_new(ipcheap_chunk *core, ipcheap_heap *heap, PyObject *source) {
    if (!grips.type) grips.type = (PyTypeObject *)grip_type();
    py_grip *made = grips.type ? (py_grip *)pool_take(&grips, grips.type) : NULL;
    if (!made) {
        end_hold(core, ipcheap_forks());
        return NULL;
    }
    made->core = *core;
    core->data = NULL;
    made->heap = heap;
    made->source = Py_NewRef(source);
    made->forks = ipcheap_forks();
    return (PyObject *)made;
}

/* Chunks --------------------------------------------------------------------------------- */

/* Has the Python class raise the exception for an error; NULL. */
static PyObject *refuse(py_chunk *self, int error, const char *asked) {
    return PyObject_CallMethod((PyObject *)self, "_refuse", "is", error, asked);
}

/* Returns 0, or why the chunk cannot be used. */
static int unusable(const py_chunk *self) {
    if (!self->core.data && !self->grip) return PY_ENDED;
    return self->forks == ipcheap_forks() ? 0 : IPCHEAP_WRONG_PROCESS;
}

static ipcheap_chunk *held(py_chunk *self) { return self->grip ? &self->grip->core : &self->core; }

/* Returns the grip; makes it if there is none. */
static PyObject *chunk_export(PyObject *object, PyObject *unused) {
    (void)unused;
    py_chunk *self = (py_chunk *)object;
    PyObject *grip = NULL;
    int error;
    LOCK(object);
    error = unusable(self);
    if (!error && !self->grip) /* then it has the hold, or that has ended */
        self->grip = (py_grip *)grip_new(&self->core, self->heap, self->source);
    if (!error) grip = Py_XNewRef((PyObject *)self->grip);
    UNLOCK();
    return error ? refuse(self, error, "used") : grip;
}

static PyObject *chunk_view(PyObject *object, void *unused) {
    (void)unused;
    PyObject *grip = chunk_export(object, NULL);
    PyObject *view = grip ? PyMemoryView_FromObject(grip) : NULL;
    Py_XDECREF(grip);
    return view;
}

/* Copies the bytes; the grip has the hold meanwhile, whatever another thread does. */
static PyObject *chunk_copy(PyObject *object, PyObject *unused) {
    PyObject *grip = chunk_export(object, unused);
    if (!grip) return NULL;
    const ipcheap_chunk *core = &((py_grip *)grip)->core;
    ipcheap_record record = {.data = chunk_bytes(core), .nbytes = core->nbytes};
    PyObject *copy = copy_out(&record);
    Py_DECREF(grip);
    return copy;
}

/* Exports the bytes; with PyBUF_FORMAT, an array chunk's array. */
static int fill_buffer(PyObject *object, PyObject *grip, Py_buffer *view, int flags) {
    if (((py_grip *)grip)->core.form != IPCHEAP_ARRAY || !(flags & PyBUF_FORMAT))
        return PyObject_GetBuffer(grip, view, flags);
    return typed_buffer(object, view, flags);
}

static int chunk_get_buffer(PyObject *object, Py_buffer *view, int flags) {
    view->obj = NULL; /* as an exporter that fails must leave it */
    PyObject *grip = chunk_export(object, NULL);
    int error = grip ? fill_buffer(object, grip, view, flags) : -1;
    Py_XDECREF(grip);
    return error;
}

static PyObject *chunk_nbytes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((py_chunk *)self)->core.nbytes);
}

static PyObject *chunk_version(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((py_chunk *)self)->core.version);
}

static PyObject *chunk_form(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(((py_chunk *)self)->core.form);
}

static Py_ssize_t chunk_length(PyObject *self) {
    py_chunk *of = (py_chunk *)self;
    if (!unusable(of)) return (Py_ssize_t)of->core.nbytes;
    Py_XDECREF(refuse(of, unusable(of), "used"));
    return -1;
}

/* Describes what is held, of a chunk that is locked: 0 or an error. */
static int describe_locked(py_chunk *self, ipcheap_chunk_info *info) {
    int error = unusable(self);
    if (!error) error = ipcheap_chunk_describe(held(self), info);
    return error == IPCHEAP_RECORD ? PY_ENDED : error;
}

/* Looks the key up, which only a hold can tell: 0, an error, or PY_RAISED. The chunk is locked. */
static int learn_key(py_chunk *self) {
    ipcheap_store_key key;
    if (self->key) return 0;
    int error = unusable(self);
    if (!error) error = ipcheap_chunk_key(held(self), &key);
    if (error) return error == IPCHEAP_RECORD ? PY_ENDED : error;
    self->key = key_object(&key);
    return self->key ? 0 : PY_RAISED;
}

static PyObject *chunk_key(PyObject *object, void *unused) {
    (void)unused;
    py_chunk *self = (py_chunk *)object;
    PyObject *key = NULL;
    int error;
    LOCK(object);
    error = learn_key(self);
    if (!error) key = Py_NewRef(self->key);
    UNLOCK();
    return error && error != PY_RAISED ? refuse(self, error, "used") : key;
}

/* Returns its age in ns, in how many ns it expires or None, and whether it is live. */
static PyObject *chunk_describe(PyObject *object, PyObject *unused) {
    (void)unused;
    ipcheap_chunk_info info;
    int error;
    LOCK(object);
    error = describe_locked((py_chunk *)object, &info);
    UNLOCK();
    if (error) return refuse((py_chunk *)object, error, "used");
    PyObject *live = info.live ? Py_True : Py_False;
    if (info.expires_in_ns == INT64_MAX)
        return Py_BuildValue("LOO", (long long)info.age_ns, Py_None, live);
    return Py_BuildValue("LLO", (long long)info.age_ns, (long long)info.expires_in_ns, live);
}

/* Returns the byte at an index, or what a view has for the key. */
static PyObject *chunk_get_item(PyObject *object, PyObject *key) {
    py_chunk *self = (py_chunk *)object;
    int value = -1;
    if (PyLong_Check(key)) {
        Py_ssize_t nbytes = (Py_ssize_t)self->core.nbytes, at = PyNumber_AsSsize_t(key, NULL);
        if (at < 0) at += nbytes;
        LOCK(object);
        if (at >= 0 && at < nbytes && !unusable(self))
            value = ((const unsigned char *)held(self)->data)[at];
        UNLOCK();
        if (value >= 0) return PyLong_FromLong(value);
    }
    PyObject *view = chunk_view(object, NULL);
    PyObject *item = view ? PyObject_GetItem(view, key) : NULL;
    Py_XDECREF(view);
    return item;
}

static PyObject *chunk_iterate(PyObject *self) {
    PyObject *view = chunk_view(self, NULL);
    PyObject *iterator = view ? PyObject_GetIter(view) : NULL;
    Py_XDECREF(view);
    return iterator;
}

/* Ends the chunk's own part in the hold: 0, an error, or PY_RAISED. The chunk is locked. */
static int release_locked(py_chunk *self) {
    int error = unusable(self);
    if (!error) error = learn_key(self);
    if (!error && !self->grip) error = end_hold(&self->core, self->forks);
    if (!error) Py_CLEAR(self->grip); /* views and arrays have their own part */
    return error;
}

/* `again`: it may have been released before. */
static PyObject *release(py_chunk *self, int again) {
    int error;
    LOCK((PyObject *)self);
    error = again && !self->core.data && !self->grip ? 0 : release_locked(self);
    UNLOCK();
    if (error == PY_RAISED) return NULL;
    if (error) return refuse(self, error, "released");
    Py_RETURN_NONE;
}

static PyObject *chunk_release(PyObject *object, PyObject *unused) {
    (void)unused;
    return release((py_chunk *)object, 0);
}

static PyObject *chunk_done_with(PyObject *object, PyObject *unused) {
    (void)unused;
    return release((py_chunk *)object, 1);
}

static PyObject *chunk_enter(PyObject *object, PyObject *unused) {
    (void)unused;
    py_chunk *self = (py_chunk *)object;
    int error = unusable(self);
    return error ? refuse(self, error, "used") : Py_NewRef(object);
}

static PyObject *chunk_exit(PyObject *object, PyObject *const *exception, Py_ssize_t count) {
    (void)exception;
    (void)count;
    return chunk_done_with(object, NULL);
}

static PyObject *chunk_is_held(PyObject *object, void *unused) {
    (void)unused;
    py_chunk *self = (py_chunk *)object;
    return PyBool_FromLong(self->core.data || self->grip);
}

static void chunk_dealloc(PyObject *object) {
    py_chunk *self = (py_chunk *)object;
    end_hold(&self->core, self->forks);
    Py_XDECREF((PyObject *)self->grip);
    Py_XDECREF(self->source);
    Py_XDECREF(self->key);
    pool_return(&chunks, object);
}

PyDoc_STRVAR(nbytes_text, "Its size in bytes.");
PyDoc_STRVAR(version_text, "The number of its commit, from 1 on, which no other chunk ever has.");
PyDoc_STRVAR(key_text, "Its key, an int, a str or bytes; None if it was put without one.");
PyDoc_STRVAR(chunk_view_text, "A read-only memoryview of its bytes, which keeps the hold.");
PyDoc_STRVAR(release_text,
             "release($self, /)\n--\n\n"
             "End the hold; views and arrays keep it until the last of them is gone.\n\n"
             "Any thread may. RecordError the second time.");

PyObject *chunk_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"release", chunk_release, METH_NOARGS, release_text},
        {"__enter__", chunk_enter, METH_NOARGS, SIGNATURE("__enter__($self, /)")},
        {"__bytes__", chunk_copy, METH_NOARGS, SIGNATURE("__bytes__($self, /)")},
        {"__exit__", (PyCFunction)(void (*)(void))chunk_exit, METH_FASTCALL,
         SIGNATURE("__exit__($self, /, *_)")},
        {"_done_with", chunk_done_with, METH_NOARGS, SIGNATURE("_done_with($self, /)")},
        {"_export", chunk_export, METH_NOARGS, SIGNATURE("_export($self, /)")},
        {"_describe", chunk_describe, METH_NOARGS, SIGNATURE("_describe($self, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef properties[] = {
        {"nbytes", chunk_nbytes, NULL, nbytes_text, NULL},
        {"version", chunk_version, NULL, version_text, NULL},
        {"key", chunk_key, NULL, key_text, NULL},
        {"view", chunk_view, NULL, chunk_view_text, NULL},
        {"_form", chunk_form, NULL, NULL, NULL},
        {"_is_held", chunk_is_held, NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyMemberDef members[] = {
        {"_source", T_OBJECT_EX, offsetof(py_chunk, source), READONLY, NULL},
        {NULL, 0, 0, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)chunk_dealloc},
        {Py_bf_getbuffer, (void *)chunk_get_buffer},
        {Py_mp_length, (void *)chunk_length},
        {Py_mp_subscript, (void *)chunk_get_item},
        {Py_tp_iter, (void *)chunk_iterate},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {Py_tp_members, members},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.ChunkCore",
        .basicsize = sizeof(py_chunk),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

void chunk_use_class(PyObject *subclass) {
    chunk_class = (PyTypeObject *)Py_NewRef(subclass);
    if (!chunks.type) chunks.type = (PyTypeObject *)Py_NewRef(subclass);
}

PyObject *chunk_new(ipcheap_chunk *core, ipcheap_heap *heap, PyObject *source, PyObject *key) {
    py_chunk *made = (py_chunk *)pool_take(&chunks, chunk_class);
    if (!made) {
        end_hold(core, ipcheap_forks());
        return NULL;
    }
    made->core = *core;
    core->data = NULL;
    made->heap = heap;
    made->source = Py_NewRef(source);
    made->key = key ? Py_NewRef(key) : NULL;
    made->forks = ipcheap_forks();
    return (PyObject *)made;
}
