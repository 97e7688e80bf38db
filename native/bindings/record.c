/* record.c - the Python type of records. */
#include "types.h"

#include <string.h>
#include <structmember.h>

#include "gil.h"
#include "pool.h"

/*
 * The Python class that records are instances of, and what is called with each record: NULL unless
 * debugging. Neither is ever released: another thread may be using it.
 */
static PyTypeObject *_Atomic record_class;
static PyObject *_Atomic record_made;

static PyTypeObject *_Atomic message_class;

static struct pool records = {.size = sizeof(py_record)};
static struct pool messages = {.size = sizeof(py_record)};

/* Records -------------------------------------------------------------------------------- */

/* Has the Python class raise the exception for an error; NULL. */
static PyObject *refuse(py_record *self, int error, const char *asked) {
    return PyObject_CallMethod((PyObject *)self, "_refuse", "is", error, asked);
}

/* The fate is written with the record locked, and may be read at any time. */
static enum fate fate_of(const py_record *self) {
    return __atomic_load_n(&self->fate, __ATOMIC_RELAXED);
}

static void set_fate(py_record *self, enum fate fate) {
    __atomic_store_n(&self->fate, fate, __ATOMIC_RELAXED);
}

/* Returns 0, or why the record cannot be used. */
static int unusable(const py_record *self) {
    if (fate_of(self) >= FREED) return PY_ENDED;
    return self->forks == ipcheap_forks() ? 0 : IPCHEAP_WRONG_PROCESS;
}

/* Returns how many views and arrays there are; slices of views do not count. */
static Py_ssize_t views(const py_record *self) {
    return self->slices + (self->block ? Py_REFCNT((PyObject *)self->block) - 1 : 0);
}

static PyObject *record_view(PyObject *object, void *unused) {
    (void)unused;
    py_record *self = (py_record *)object;
    PyObject *view = NULL;
    int error;
    LOCK(object);
    error = unusable(self);
    if (!error) view = slice_view(self, 0, (Py_ssize_t)self->core.nbytes, 1);
    UNLOCK();
    return error ? refuse(self, error, "used") : view;
}

static PyObject *record_copy(PyObject *object, PyObject *unused) {
    (void)unused;
    py_record *self = (py_record *)object;
    PyObject *copy = NULL;
    int error;
    LOCK(object);
    error = unusable(self);
    if (!error) {
        self->slices++; /* a long copy releases the GIL: the memory must stay until it is done */
        copy = copy_out(&self->core);
        record_unview(self);
    }
    UNLOCK();
    return error ? refuse(self, error, "used") : copy;
}

static int record_get_buffer(PyObject *object, Py_buffer *view, int flags) {
    py_record *self = (py_record *)object;
    int typed = self->core.form == IPCHEAP_ARRAY && flags & PyBUF_FORMAT, error, failed = -1;
    view->obj = NULL; /* as an exporter that fails must leave it */
    LOCK(object);
    error = unusable(self);
    if (!error && !typed) failed = slice_buffer(self, view, flags);
    UNLOCK();
    if (!error) return typed ? typed_buffer(object, view, flags) : failed;
    Py_XDECREF(refuse(self, error, "used"));
    return -1;
}

/* Returns the block that all arrays of the record are made of; makes it if there is none. */
static PyObject *record_block(PyObject *object, PyObject *unused) {
    (void)unused;
    py_record *self = (py_record *)object;
    PyObject *block = NULL;
    int error;
    LOCK(object);
    error = unusable(self);
    if (!error && !self->block)
        self->block = (py_block *)block_new(&self->core, self->heap, self->source, self->readonly);
    if (!error) block = Py_XNewRef((PyObject *)self->block);
    UNLOCK();
    return error ? refuse(self, error, "used") : block;
}

static PyObject *record_nbytes(PyObject *self, void *unused) {
    (void)unused;
    py_record *of = (py_record *)self;
    if (fate_of(of) >= FREED) return refuse(of, PY_ENDED, "used");
    return PyLong_FromUnsignedLongLong(of->core.nbytes);
}

static PyObject *record_form(PyObject *self, void *unused) {
    (void)unused;
    py_record *of = (py_record *)self;
    if (fate_of(of) >= FREED) return refuse(of, PY_ENDED, "used");
    switch (of->core.form) {
    case IPCHEAP_ARRAY:
        return PyUnicode_InternFromString("array");
    case IPCHEAP_OBJECT:
        return PyUnicode_InternFromString("object");
    default: /* whatever else a peer may have written */
        return PyUnicode_InternFromString("bytes");
    }
}

static Py_ssize_t record_length(PyObject *self) {
    py_record *of = (py_record *)self;
    if (fate_of(of) < FREED) return (Py_ssize_t)of->core.nbytes;
    Py_XDECREF(refuse(of, PY_ENDED, "used"));
    return -1;
}

/* Items ---------------------------------------------------------------------------------- */

/* Returns where one byte is; NULL if `key` is no valid index, and a view will say why. */
static unsigned char *byte_at(const py_record *self, PyObject *key) {
    if (!PyLong_Check(key) || unusable(self)) return NULL;
    Py_ssize_t nbytes = (Py_ssize_t)self->core.nbytes, at = PyNumber_AsSsize_t(key, NULL);
    if (at < 0) at += nbytes;
    return at >= 0 && at < nbytes ? (unsigned char *)self->core.data + at : NULL;
}

static PyObject *view_of_slice(py_record *self, PyObject *key) {
    Py_ssize_t start, stop, step;
    if (PySlice_Unpack(key, &start, &stop, &step) != 0) return NULL;
    Py_ssize_t length = PySlice_AdjustIndices((Py_ssize_t)self->core.nbytes, &start, &stop, step);
    PyObject *view = NULL;
    int error;
    LOCK((PyObject *)self);
    error = unusable(self); /* an index's __index__() may have freed the record */
    if (!error) view = slice_view(self, start, length, step);
    UNLOCK();
    return error ? refuse(self, error, "used") : view;
}

static PyObject *record_get_item(PyObject *self, PyObject *key) {
    if (PySlice_Check(key)) return view_of_slice((py_record *)self, key);
    int value = -1;
    LOCK(self);
    const unsigned char *byte = byte_at((py_record *)self, key);
    if (byte) value = *byte;
    UNLOCK();
    if (value >= 0) return PyLong_FromLong(value);
    PyObject *view = record_view(self, NULL);
    PyObject *item = view ? PyObject_GetItem(view, key) : NULL;
    Py_XDECREF(view);
    return item;
}

/* Copies bytes into the record, which is locked; they may be some of its own. */
static void fill_part(py_record *self, Py_ssize_t start, const ipcheap_bytes *from) {
    char *to = (char *)self->core.data + start;
    uintptr_t apart = (uintptr_t)to - (uintptr_t)from->data;
    if (apart < from->nbytes || -apart < from->nbytes) {
        memmove(to, from->data, (size_t)from->nbytes);
        return;
    }
    self->slices++; /* a long copy releases the GIL: the memory must stay until it is done */
    self->fills++;  /* and must stay ours */
    copy_bytes(self->heap, to, from->data, (size_t)from->nbytes);
    self->fills--;
    record_unview(self);
}

/*
 * Copies a bytes-like object into a slice of the same length, and returns 1. Returns -1 with an
 * exception if the lengths differ, and 0 for anything else, which is then left to a view.
 */
static int set_slice(py_record *self, PyObject *key, PyObject *value) {
    Py_ssize_t start, stop, step;
    py_bytes bytes;
    if (!PySlice_Check(key)) return 0;
    if (PySlice_Unpack(key, &start, &stop, &step) != 0) {
        PyErr_Clear();
        return 0;
    }
    Py_ssize_t length = PySlice_AdjustIndices((Py_ssize_t)self->core.nbytes, &start, &stop, step);
    if (step != 1) return 0;
    int error = bytes_open(&bytes, value);
    if (error == PY_OBJECTS) {
        PyErr_SetString(PyExc_TypeError,
                        "a record cannot hold Python objects: send_object() sends them");
        return -1;
    }
    if (error) return 0;
    int usable, fits = (uint64_t)length == bytes.plain.nbytes;
    LOCK((PyObject *)self);
    /* An index's __index__(), or the object that gave its buffer, may have freed the record. */
    usable = !unusable(self);
    if (usable && fits) fill_part(self, start, &bytes.plain);
    UNLOCK();
    if (usable && !fits)
        PyErr_Format(PyExc_ValueError, "%zd bytes of a record cannot be set to %zu others", length,
                     (size_t)bytes.plain.nbytes);
    bytes_close(&bytes);
    return usable ? fits ? 1 : -1 : 0;
}

static void add_fills(py_record *self, int count) {
    LOCK((PyObject *)self);
    self->fills += count;
    UNLOCK();
}

static int record_set_item(PyObject *object, PyObject *key, PyObject *value) {
    if (((py_record *)object)->readonly) {
        PyErr_SetString(PyExc_TypeError, "a message is read-only: others hear it, too");
        return -1;
    }
    int set = value ? set_slice((py_record *)object, key, value) : 0;
    if (set) return set > 0 ? 0 : -1;
    int error = -1;
    add_fills((py_record *)object, 1); /* what the view calls may be any Python code */
    PyObject *view = record_view(object, NULL);
    if (view) error = value ? PyObject_SetItem(view, key, value) : PyObject_DelItem(view, key);
    Py_XDECREF(view);
    add_fills((py_record *)object, -1);
    return error;
}

static PyObject *record_iterate(PyObject *self) {
    PyObject *view = record_view(self, NULL);
    PyObject *iterator = view ? PyObject_GetIter(view) : NULL;
    Py_XDECREF(view);
    return iterator;
}

/* Its end -------------------------------------------------------------------------------- */

static int keep(py_record *self) {
    int error = keeping_keep(self->heap, &self->core);
    if (!error && self->block) self->block->core.consumer = self->core.consumer;
    return error;
}

/* Frees the memory, unless arrays need it: then their block frees it. */
static int end(py_record *self) {
    if (!self->block) return keeping_free(self->heap, &self->core);
    Py_CLEAR(self->block);
    return 0;
}

/*
 * Frees the record, which is locked: 0 or an error. While it has views the memory stays, but its slot
 * of the ring is released.
 */
static inline int free_locked(py_record *self) {
    int error = unusable(self);
    if (error) return error;
    enum fate before = fate_of(self);
    set_fate(self, FREED); /* for other threads, while the call releases the GIL */
    if (views(self) && self->core.consumer) error = keep(self);
    if (!error && !self->slices) {
        error = end(self);
        if (error == IPCHEAP_HEAP_BUSY) error = 0;
    }
    if (error)
        set_fate(self, before);
    else
        self->lingers = self->slices > 0;
    return error;
}

static PyObject *record_free(PyObject *object, PyObject *unused) {
    (void)unused;
    int error;
    LOCK(object);
    error = free_locked((py_record *)object);
    UNLOCK();
    if (error) return refuse((py_record *)object, error, "freed");
    Py_RETURN_NONE;
}

void record_unview(py_record *self) {
    if (--self->slices || !self->lingers) return;
    self->lingers = 0;
    if (self->forks == ipcheap_forks()) end(self);
}

/* Keeps the record, which is locked: 0 or an error. */
static int keep_locked(py_record *self) {
    int error = unusable(self);
    if (error) return error;
    enum fate before = fate_of(self);
    set_fate(self, FREED); /* for other threads, while the call releases the GIL */
    error = keep(self);
    set_fate(self, error ? before : KEPT);
    return error;
}

static PyObject *record_keep(PyObject *object, PyObject *unused) {
    (void)unused;
    int error;
    LOCK(object);
    error = keep_locked((py_record *)object);
    UNLOCK();
    if (error) return refuse((py_record *)object, error, "used");
    Py_RETURN_NONE;
}

/* Returns the description that memory_allocate_described() takes. */
static PyObject *record_describe(PyObject *object, PyObject *unused) {
    (void)unused;
    py_record *self = (py_record *)object;
    PyObject *made = NULL;
    int error, object_magic = PY_PIECES;
    LOCK(object);
    error = unusable(self);
    if (!error && self->core.form == IPCHEAP_ARRAY)
        made = description_of(self->heap, &self->core, self->forks);
    else if (!error)
        made = PyBytes_FromStringAndSize((const char *)&object_magic,
                                         self->core.form == IPCHEAP_OBJECT ? sizeof object_magic
                                                                           : 0);
    UNLOCK();
    if (!error && (!made || PyBytes_Check(made))) return made;
    if (!error) error = (int)PyLong_AsLong(made);
    Py_XDECREF(made);
    return refuse(self, error, "used");
}

/* Frees the record, unless it was freed, sent or kept. */
static PyObject *record_done_with(PyObject *object, PyObject *unused) {
    (void)unused;
    py_record *self = (py_record *)object;
    int error;
    LOCK(object);
    error = fate_of(self) == OURS ? free_locked(self) : 0;
    UNLOCK();
    if (error) return refuse(self, error, "freed");
    Py_RETURN_NONE;
}

static PyObject *record_enter(PyObject *object, PyObject *unused) {
    (void)unused;
    py_record *self = (py_record *)object;
    if (fate_of(self) >= FREED) return refuse(self, PY_ENDED, "used");
    return Py_NewRef(object);
}

static PyObject *record_exit(PyObject *object, PyObject *exception) {
    (void)exception;
    return record_done_with(object, NULL);
}

static PyObject *record_fate(PyObject *object, void *unused) {
    static const char *const names[] = {"", "kept", "freed", "sent"};
    (void)unused;
    return PyUnicode_FromString(names[fate_of((py_record *)object)]);
}

static void record_dealloc(PyObject *object) {
    py_record *self = (py_record *)object;
    if (self->weak_references) PyObject_ClearWeakRefs(object);
    /* If there is a block, the record is freed, and acknowledged, when the block goes. */
    if (self->block)
        Py_DECREF((PyObject *)self->block);
    else if (self->source && !unusable(self))
        keeping_free(self->heap, &self->core);
    Py_XDECREF(self->source);
    Py_XDECREF(self->layout);
    pool_return(self->readonly ? &messages : &records, object);
}

PyDoc_STRVAR(nbytes_text, "Its size in bytes, as it was asked for.");
PyDoc_STRVAR(form_text,
             "What it holds: an \"array\" if allocate_array() or loan() made it, an \"object\" if "
             "send_object() or post_object() did, otherwise \"bytes\".");
static PyObject *record_address(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(&((py_record *)object)->core);
}

PyDoc_STRVAR(view_text,
             "A memoryview of its bytes: writable, and not initialised after allocation; read-only "
             "of a message.");
PyDoc_STRVAR(free_text,
             "free($self, /)\n--\n\n"
             "Free the record, and acknowledge it if it was received. RecordError the second "
             "time.");
PyDoc_STRVAR(keep_text,
             "keep($self, /)\n--\n\n"
             "Take a received record out of its channel, so that its slot can be used again.\n\n"
             "It outlives the consumer, and the `with` block around the record.");

PyDoc_STRVAR(describe_text,
             "describe($self, /)\n--\n\n"
             "Return what `Producer.allocate_described` needs to make a record of the same form.\n\n"
             "The result is empty for bytes. For an array it contains the shape and dtype.");

PyObject *record_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"free", record_free, METH_NOARGS, free_text},
        {"keep", record_keep, METH_NOARGS, keep_text},
        {"__bytes__", record_copy, METH_NOARGS, SIGNATURE("__bytes__($self, /)")},
        {"describe", record_describe, METH_NOARGS, describe_text},
        {"__enter__", record_enter, METH_NOARGS, SIGNATURE("__enter__($self, /)")},
        {"__exit__", record_exit, METH_VARARGS, SIGNATURE("__exit__($self, /, *_)")},
        {"_done_with", record_done_with, METH_NOARGS, SIGNATURE("_done_with($self, /)")},
        {"_export", record_block, METH_NOARGS, SIGNATURE("_export($self, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef properties[] = {
        {"nbytes", record_nbytes, NULL, nbytes_text, NULL},
        {"form", record_form, NULL, form_text, NULL},
        {"view", record_view, NULL, view_text, NULL},
        {"_fate", record_fate, NULL, NULL, NULL},
        {"_address", record_address, NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyMemberDef members[] = {
        {"__weaklistoffset__", T_PYSSIZET, offsetof(py_record, weak_references), READONLY, NULL},
        {"_source", T_OBJECT_EX, offsetof(py_record, source), READONLY, NULL},
        {"_layout", T_OBJECT, offsetof(py_record, layout), READONLY, NULL},
        {"_lent", T_INT, offsetof(py_record, lent), 0, NULL},
        {"_position", T_ULONGLONG, offsetof(py_record, core.position), READONLY, NULL},
        {NULL, 0, 0, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)record_dealloc},
        {Py_bf_getbuffer, (void *)record_get_buffer},
        {Py_mp_length, (void *)record_length},
        {Py_mp_subscript, (void *)record_get_item},
        {Py_mp_ass_subscript, (void *)record_set_item},
        {Py_tp_iter, (void *)record_iterate},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {Py_tp_members, members},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.RecordCore",
        .basicsize = sizeof(py_record),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

int record_is(PyObject *object) {
    return Py_TYPE(object) == record_class ||
           PyObject_TypeCheck(object, (PyTypeObject *)record_type());
}

/* Sets the class of all records, and what is called with each that is made, or None. */
void record_use_class(PyObject *subclass, PyObject *made) {
    record_class = (PyTypeObject *)Py_NewRef(subclass);
    record_made = made == Py_None ? NULL : Py_NewRef(made);
    /* Only the first class, ipcheap.Record, is pooled; it stays until the process ends. */
    if (!records.type && !record_made) records.type = (PyTypeObject *)Py_NewRef(subclass);
}

void message_use_class(PyObject *subclass) {
    message_class = (PyTypeObject *)Py_NewRef(subclass);
    if (!messages.type && !record_made) messages.type = (PyTypeObject *)Py_NewRef(subclass);
}

static PyObject *prepared(PyObject *object, ipcheap_heap *heap, PyObject *source) {
    if (!object) return NULL;
    py_record *self = (py_record *)object;
    self->heap = heap;
    self->source = Py_NewRef(source);
    self->forks = ipcheap_forks();
    return object;
}

PyObject *record_new(ipcheap_heap *heap, PyObject *source) {
    return prepared(pool_take(&records, record_class), heap, source);
}

PyObject *message_new(ipcheap_heap *heap, PyObject *source) {
    PyObject *made = prepared(pool_take(&messages, message_class), heap, source);
    if (made) ((py_record *)made)->readonly = 1;
    return made;
}

void record_drop(PyObject *object) {
    set_fate((py_record *)object, FREED);
    Py_DECREF(object);
}

int record_announce(PyObject *object) {
    PyObject *made = record_made;
    if (!made) return 0;
    PyObject *told = PyObject_CallFunctionObjArgs(made, object, NULL);
    Py_XDECREF(told);
    return told ? 0 : -1;
}

/* Returns 0 if an object is a record, which is locked, that can be sent in a heap, or why not. */
static inline int outgoing(PyObject *object, ipcheap_heap *heap) {
    if (!record_is(object)) return PY_NOT_A_RECORD;
    py_record *self = (py_record *)object;
    int error = unusable(self);
    if (error) return error;
    if (self->heap != heap && (!heap || !ipcheap_same(self->heap, heap))) return IPCHEAP_RECORD;
    if (self->fills) return PY_FILLING;
    return record_made && views(self) > self->lent ? PY_VIEWED : 0;
}

int record_outgoing(PyObject *object, ipcheap_heap *heap) {
    int error;
    LOCK(object);
    error = outgoing(object, heap);
    UNLOCK();
    return error;
}

int record_begin_sending(PyObject *object, ipcheap_heap *heap, enum fate *before) {
    int error;
    LOCK(object);
    error = outgoing(object, heap);
    if (!error) {
        *before = fate_of((py_record *)object);
        set_fate((py_record *)object, SENT);
    }
    UNLOCK();
    return error;
}

void record_end_sending(PyObject *object, int sent, enum fate before) {
    py_record *self = (py_record *)object;
    LOCK(object);
    if (!sent) {
        set_fate(self, before);
    } else if (self->block) {
        self->block->armed = 0;
        Py_CLEAR(self->block);
    }
    UNLOCK();
}

int record_list(PyObject *object, ipcheap_heap *heap, const PyObject *list) {
    int error;
    LOCK(object);
    error = outgoing(object, heap);
    if (!error && ((py_record *)object)->listed == list) error = PY_TWICE;
    if (!error) ((py_record *)object)->listed = list;
    UNLOCK();
    return error;
}

void record_unlist(PyObject *object, const PyObject *list) {
    py_record *self = (py_record *)object;
    LOCK(object);
    if (self->listed == list) self->listed = NULL;
    UNLOCK();
}
