/*
 * store.c - the Python types of a store's two sides.
 *
 *   StoreWriterCore   puts and deletes, and the transactions around them
 *   StoreReaderCore   gets and follows; what it gives out is in chunk.h
 *   FollowCore        an iterator over a reader's next chunks
 *
 * A call keeps the GIL, except for a long copy, for what looks at every slot, and to wait.
 */
#include "chunk.h"
#include "endpoint.h"
#include "gil.h"

#include <limits.h>

typedef struct py_side {
    py_endpoint side;
    int in_transaction;
} py_side;

/* Arguments ------------------------------------------------------------------------------ */

/* True, with an exception, if more than `most` arguments are given by position. */
static int too_many(Py_ssize_t count, Py_ssize_t most) {
    if (count <= most) return 0;
    PyErr_Format(PyExc_TypeError, "at most %zd positional arguments are taken, %zd were given",
                 most, count);
    return 1;
}

/* Makes the key of an int, str or bytes and no subclass; BAD_VALUE if it is none, or no key. */
static int plain_key(PyObject *object, ipcheap_store_key *key) {
    if (PyUnicode_CheckExact(object)) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(object, &length);
        if (text) return ipcheap_store_key_of(key, IPCHEAP_KEY_TEXT, text, (size_t)length);
        PyErr_Clear();
    } else if (PyLong_CheckExact(object)) {
        unsigned long long number = PyLong_AsUnsignedLongLong(object);
        if (number != ULLONG_MAX || !PyErr_Occurred()) return ipcheap_store_key_int(key, number);
        PyErr_Clear();
    } else if (PyBytes_CheckExact(object)) {
        return ipcheap_store_key_of(key, IPCHEAP_KEY_BYTES, PyBytes_AsString(object),
                                    (size_t)PyBytes_Size(object));
    }
    return IPCHEAP_BAD_VALUE;
}

/*
 * Makes a key. Returns it as a plain int, str or bytes, a new reference; NULL with an exception. The
 * Python class makes a plain key of anything else, or raises.
 */
static PyObject *take_key(PyObject *self, PyObject *object, ipcheap_store_key *key) {
    if (plain_key(object, key) == 0) return Py_NewRef(object);
    PyObject *plain = PyObject_CallMethod(self, "_plain_key", "(O)", object);
    if (!plain || plain_key(plain, key) == 0) return plain;
    Py_DECREF(plain);
    PyErr_SetString(PyExc_SystemError, "_plain_key() returned no plain key");
    return NULL;
}

/* Reads a version, no argument being 0; -1 with an exception. */
static int take_version(PyObject *self, PyObject *number, uint64_t *version) {
    *version = 0;
    if (!number) return 0;
    if (PyLong_CheckExact(number)) {
        *version = PyLong_AsUnsignedLongLong(number);
        if (*version != ULLONG_MAX || !PyErr_Occurred()) return 0;
        PyErr_Clear();
    }
    PyObject *plain = PyObject_CallMethod(self, "_plain_version", "(O)", number);
    if (!plain) return -1;
    *version = PyLong_AsUnsignedLongLong(plain);
    Py_DECREF(plain);
    return PyErr_Occurred() ? -1 : 0;
}

/* Reads a time to live, as the core takes it; -1 with an exception. */
static int take_ttl(PyObject *self, PyObject *ttl, int64_t *nanoseconds) {
    *nanoseconds = 0; /* as the store says */
    if (!ttl || ttl == Py_None) return 0;
    if (PyFloat_CheckExact(ttl) || PyLong_CheckExact(ttl)) {
        double seconds = PyFloat_AsDouble(ttl);
        if (seconds > 1e-9 && seconds < 9e9) {
            *nanoseconds = (int64_t)(seconds * 1e9);
            return 0;
        }
        PyErr_Clear();
    }
    PyObject *plain = PyObject_CallMethod(self, "_nanoseconds", "(O)", ttl);
    if (!plain) return -1;
    *nanoseconds = PyLong_AsLongLong(plain);
    Py_DECREF(plain);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *refuse(PyObject *self, int64_t error) {
    return PyObject_CallMethod(self, "_refuse", "L", (long long)error);
}

/* Putting -------------------------------------------------------------------------------- */

/* Without the GIL if the copy is long. */
static int put_core(ipcheap_endpoint *writer, const ipcheap_store_key *key,
                    const ipcheap_bytes *bytes, int64_t ttl, uint64_t *version) {
    if (bytes->nbytes < LONG_COPY)
        return keeping_store_put(writer, key, bytes->data, bytes->nbytes, ttl, version);
    return releasing_store_put(writer, key, bytes->data, bytes->nbytes, ttl, version);
}

/* `name` NULL is for a chunk without a key, as None is. */
static PyObject *put(PyObject *object, PyObject *name, PyObject *data, PyObject *ttl) {
    py_endpoint *self = (py_endpoint *)object;
    ipcheap_store_key key;
    py_bytes bytes;
    int64_t nanoseconds;
    uint64_t version;
    int keyed = name && name != Py_None;
    PyObject *plain = keyed ? take_key(object, name, &key) : Py_NewRef(Py_None);
    if (!plain || take_ttl(object, ttl, &nanoseconds) != 0) {
        Py_XDECREF(plain);
        return NULL;
    }
    int error = IPCHEAP_ENDPOINT_CLOSED;
    if (self->endpoint && (error = bytes_open(&bytes, data)) == 0) {
        error = put_core(self->endpoint, keyed ? &key : NULL, &bytes.plain, nanoseconds, &version);
        bytes_close(&bytes);
    }
    Py_DECREF(plain);
    if (!error) return PyLong_FromUnsignedLongLong(version);
    return PyObject_CallMethod(object, "_put_refused", "iO", error, data);
}

static PyObject *writer_put(PyObject *self, PyObject *const *given, Py_ssize_t count,
                            PyObject *names) {
    static const char *const words[] = {"key", "data", "ttl", NULL};
    PyObject *arguments[3];
    if (arguments_of(given, count, names, words, 2, arguments)) return NULL;
    return put(self, arguments[0], arguments[1], arguments[2]);
}

static PyObject *writer_append(PyObject *self, PyObject *const *given, Py_ssize_t count,
                               PyObject *names) {
    static const char *const words[] = {"data", "ttl", NULL};
    PyObject *arguments[2];
    if (arguments_of(given, count, names, words, 1, arguments)) return NULL;
    return put(self, NULL, arguments[0], arguments[1]);
}

/* What is put by one call: room for all of it, in one piece. */
typedef struct many {
    Py_ssize_t count, opened;
    ipcheap_store_item *items;
    ipcheap_store_key *keys;
    py_bytes *bytes;
} many;

static void many_close(many *all) {
    while (all->opened) bytes_close(&all->bytes[--all->opened]);
    PyMem_Free(all->items);
    PyMem_Free(all->keys);
    PyMem_Free(all->bytes);
}

/*
 * Returns the pair at an index of a list that nobody else has, as a tuple, which stays there; NULL
 * with an exception.
 */
static PyObject *pair_at(PyObject *list, Py_ssize_t i) {
    PyObject *pair = PyList_GetItem(list, i);
    if (!PyTuple_CheckExact(pair)) {
        pair = PySequence_Tuple(pair);
        if (!pair || PyList_SetItem(list, i, pair) != 0) return NULL;
    }
    if (PyTuple_Size(pair) == 2) return pair;
    PyErr_Format(PyExc_ValueError, "a pair is a key and bytes, not %zd items", PyTuple_Size(pair));
    return NULL;
}

/* Opens one pair: 0, PY_NOT_BYTES, PY_OBJECTS or PY_RAISED. */
static int many_add(PyObject *self, many *all, PyObject *name, PyObject *data) {
    Py_ssize_t at = all->opened;
    PyObject *plain = NULL;
    if (name != Py_None && !(plain = take_key(self, name, &all->keys[at]))) return PY_RAISED;
    Py_XDECREF(plain);
    int error = bytes_open(&all->bytes[at], data);
    if (error) return error;
    const ipcheap_bytes *bytes = &all->bytes[at].plain;
    all->items[at] = (ipcheap_store_item){plain ? &all->keys[at] : NULL, bytes->data,
                                          bytes->nbytes};
    all->opened++;
    return 0;
}

static int put_all(py_endpoint *self, const many *all, int64_t ttl, uint64_t *version) {
    ipcheap_endpoint *writer = self->endpoint;
    size_t count = (size_t)all->count;
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) total += all->items[i].nbytes;
    if (total < LONG_COPY) return keeping_store_put_many(writer, all->items, count, ttl, version);
    return releasing_store_put_many(writer, all->items, count, ttl, version);
}

/* _put_many(pairs, ttl): of a list that nobody else has. */
static PyObject *writer_put_many(PyObject *object, PyObject *arguments) {
    py_endpoint *self = (py_endpoint *)object;
    PyObject *pairs, *ttl, *last = Py_None;
    many all = {0};
    int64_t nanoseconds;
    uint64_t version;
    if (!PyArg_ParseTuple(arguments, "O!O", &PyList_Type, &pairs, &ttl) ||
        take_ttl(object, ttl, &nanoseconds) != 0)
        return NULL;
    all.count = PyList_Size(pairs);
    size_t count = all.count ? (size_t)all.count : 1;
    all.items = PyMem_Calloc(count, sizeof *all.items);
    all.keys = PyMem_Calloc(count, sizeof *all.keys);
    all.bytes = PyMem_Calloc(count, sizeof *all.bytes);
    if (!all.items || !all.keys || !all.bytes) {
        many_close(&all);
        return PyErr_NoMemory();
    }
    int error = self->endpoint ? 0 : IPCHEAP_ENDPOINT_CLOSED;
    for (Py_ssize_t i = 0; i < all.count && !error; i++) {
        PyObject *pair = pair_at(pairs, i);
        last = pair ? PyTuple_GetItem(pair, 1) : Py_None;
        error = pair ? many_add(object, &all, PyTuple_GetItem(pair, 0), last) : PY_RAISED;
    }
    if (!error) error = put_all(self, &all, nanoseconds, &version);
    many_close(&all);
    if (!error) return PyLong_FromUnsignedLongLong(version);
    if (error == PY_RAISED) return NULL;
    return PyObject_CallMethod(object, "_put_refused", "iO", error, last);
}

/*
 * Puts a record, which its handle and others see as sent. In a transaction it stays so until
 * _settle().
 */
static int put_record(py_side *self, py_record *record, const ipcheap_store_key *key, int64_t ttl,
                      uint64_t *version) {
    py_endpoint *side = &self->side;
    ipcheap_heap *other = record->heap != side->heap ? record->heap : NULL;
    enum fate before;
    int error = record_begin_sending((PyObject *)record, side->heap, &before);
    if (error) return error;
    if (other) error = keeping_adopt(side->heap, other, &record->core);
    if (!error) {
        error = keeping_store_put_record(side->endpoint, key, &record->core, ttl, version);
        if (error && other) keeping_adopt(other, side->heap, &record->core);
    }
    record->before = before;
    if (error || !self->in_transaction) record_end_sending((PyObject *)record, !error, before);
    return error;
}

static PyObject *writer_put_record(PyObject *object, PyObject *const *given, Py_ssize_t count,
                                   PyObject *names) {
    static const char *const words[] = {"key", "record", "ttl", NULL};
    py_side *self = (py_side *)object;
    PyObject *arguments[3], *plain = NULL;
    ipcheap_store_key key;
    int64_t nanoseconds;
    uint64_t version;
    if (arguments_of(given, count, names, words, 2, arguments)) return NULL;
    PyObject *name = arguments[0], *record = arguments[1];
    if (name != Py_None && !(plain = take_key(object, name, &key))) return NULL;
    Py_XDECREF(plain);
    if (take_ttl(object, arguments[2], &nanoseconds) != 0) return NULL;
    int error = self->side.endpoint ? endpoint_refuses(&self->side) : IPCHEAP_ENDPOINT_CLOSED;
    if (!error && !record_is(record)) error = PY_NOT_A_RECORD;
    if (!error)
        error = put_record(self, (py_record *)record, plain ? &key : NULL, nanoseconds, &version);
    if (error) return PyObject_CallMethod(object, "_record_refused", "iO", error, record);
    if (self->in_transaction) {
        PyObject *kept = PyObject_CallMethod(object, "_in_transaction", "(O)", record);
        if (!kept) return NULL;
        Py_DECREF(kept);
    }
    return PyLong_FromUnsignedLongLong(version);
}

static PyObject *writer_delete(PyObject *object, PyObject *name) {
    py_endpoint *self = (py_endpoint *)object;
    ipcheap_store_key key;
    PyObject *plain = take_key(object, name, &key);
    if (!plain) return NULL;
    Py_DECREF(plain);
    int found = IPCHEAP_ENDPOINT_CLOSED;
    if (self->endpoint) found = keeping_store_delete(self->endpoint, &key, NULL);
    return found < 0 ? refuse(object, found) : PyBool_FromLong(found);
}

static PyObject *writer_collect(PyObject *object, PyObject *unused) {
    (void)unused;
    py_endpoint *self = (py_endpoint *)object;
    int64_t freed = IPCHEAP_ENDPOINT_CLOSED;
    if (self->endpoint) freed = keeping_store_collect(self->endpoint);
    return freed < 0 ? refuse(object, freed) : PyLong_FromLongLong(freed);
}

/* _evict(nbytes): drops the oldest chunks of a store that evicts: 1, 0 if it has none, or an error. */
static PyObject *writer_evict(PyObject *object, PyObject *nbytes) {
    py_endpoint *self = (py_endpoint *)object;
    unsigned long long bytes = PyLong_AsUnsignedLongLong(nbytes);
    if (PyErr_Occurred()) return NULL;
    int gone = IPCHEAP_ENDPOINT_CLOSED;
    if (self->endpoint) gone = keeping_store_evict(self->endpoint, bytes);
    return PyLong_FromLong(gone);
}

/* Transactions --------------------------------------------------------------------------- */

/* Each returns 0 or the core's error as a number. */

static PyObject *writer_begin(PyObject *object, PyObject *unused) {
    (void)unused;
    py_side *self = (py_side *)object;
    int error = IPCHEAP_ENDPOINT_CLOSED;
    if (self->side.endpoint) error = holding_store_begin(self->side.endpoint);
    if (!error) self->in_transaction = 1;
    return PyLong_FromLong(error);
}

static PyObject *writer_commit(PyObject *object, PyObject *unused) {
    (void)unused;
    py_side *self = (py_side *)object;
    uint64_t version;
    self->in_transaction = 0;
    return PyLong_FromLong(keeping_store_commit(self->side.endpoint, &version));
}

static PyObject *writer_abort(PyObject *object, PyObject *unused) {
    (void)unused;
    py_side *self = (py_side *)object;
    self->in_transaction = 0;
    return PyLong_FromLong(keeping_store_abort(self->side.endpoint));
}

/* _settle(record, committed): after the transaction that a record was put in. */
static PyObject *writer_settle(PyObject *object, PyObject *arguments) {
    py_endpoint *self = (py_endpoint *)object;
    PyObject *given;
    int committed;
    if (!PyArg_ParseTuple(arguments, "O!p", (PyTypeObject *)record_type(), &given, &committed))
        return NULL;
    py_record *record = (py_record *)given;
    if (!committed && record->heap != self->heap)
        keeping_adopt(record->heap, self->heap, &record->core);
    if (!committed && record->block) record->block->core.consumer = record->core.consumer;
    record_end_sending(given, committed, record->before);
    Py_RETURN_NONE;
}

/* Getting -------------------------------------------------------------------------------- */

/* Holds the newest chunk of a key: 1, 0 for none, an error, or PY_RAISED. */
static int hold(PyObject *object, PyObject *name, uint64_t newer_than, ipcheap_chunk *chunk,
                PyObject **plain) {
    py_endpoint *self = (py_endpoint *)object;
    ipcheap_store_key key;
    *plain = take_key(object, name, &key);
    if (!*plain) return PY_RAISED;
    int found = IPCHEAP_ENDPOINT_CLOSED;
    if (self->endpoint) found = holding_store_get(self->endpoint, &key, newer_than, chunk);
    if (found <= 0) Py_CLEAR(*plain);
    return found;
}

static PyObject *chunk_of(PyObject *object, ipcheap_chunk *core, PyObject *key) {
    py_endpoint *self = (py_endpoint *)object;
    return chunk_new(core, self->heap, self->source, key);
}

/* Returns the chunk of a key; `otherwise` if there is none, or KeyError if that is NULL. */
static PyObject *get(PyObject *self, PyObject *name, uint64_t newer_than, PyObject *otherwise) {
    ipcheap_chunk core;
    PyObject *plain;
    int found = hold(self, name, newer_than, &core, &plain);
    if (found > 0) {
        PyObject *chunk = chunk_of(self, &core, plain);
        Py_DECREF(plain);
        return chunk;
    }
    if (found == PY_RAISED) return NULL;
    if (found < 0) return refuse(self, found);
    if (otherwise) return Py_NewRef(otherwise);
    PyErr_SetObject(PyExc_KeyError, name);
    return NULL;
}

static PyObject *reader_get(PyObject *self, PyObject *const *given, Py_ssize_t count,
                            PyObject *names) {
    static const char *const words[] = {"key", "default", "newer_than", NULL};
    PyObject *arguments[3];
    uint64_t newer_than;
    if (arguments_of(given, count, names, words, 1, arguments) || too_many(count, 2)) return NULL;
    if (take_version(self, arguments[2], &newer_than) != 0) return NULL;
    return get(self, arguments[0], newer_than, or_none(arguments[1]));
}

static PyObject *reader_get_item(PyObject *self, PyObject *name) {
    return get(self, name, 0, NULL);
}

static PyObject *reader_get_bytes(PyObject *object, PyObject *const *given, Py_ssize_t count,
                                  PyObject *names) {
    static const char *const words[] = {"key", "default", NULL};
    py_endpoint *self = (py_endpoint *)object;
    PyObject *arguments[2], *plain;
    ipcheap_store_key key;
    ipcheap_chunk core;
    if (arguments_of(given, count, names, words, 1, arguments)) return NULL;
    if (!(plain = take_key(object, arguments[0], &key))) return NULL;
    Py_DECREF(plain);
    int found = IPCHEAP_ENDPOINT_CLOSED;
    if (self->endpoint) found = holding_store_peek(self->endpoint, &key, &core);
    if (found < 0) return refuse(object, found);
    if (found == 0) return Py_NewRef(or_none(arguments[1]));
    ipcheap_record record = {.data = chunk_bytes(&core), .nbytes = core.nbytes};
    PyObject *copy = copy_out(&record);
    END_HOLD(&core);
    return copy;
}

/* _grip(key, form): the memory of a chunk of that form; None if there is none, or an error. */
static PyObject *reader_grip(PyObject *object, PyObject *arguments) {
    py_endpoint *self = (py_endpoint *)object;
    ipcheap_chunk core;
    PyObject *name, *plain;
    unsigned int form;
    if (!PyArg_ParseTuple(arguments, "OI", &name, &form)) return NULL;
    int found = hold(object, name, 0, &core, &plain);
    if (found == PY_RAISED) return NULL;
    if (found < 0) return PyLong_FromLong(found);
    if (found == 0) Py_RETURN_NONE;
    Py_DECREF(plain);
    if (core.form == form) return grip_new(&core, self->heap, self->source);
    END_HOLD(&core);
    return PyLong_FromLong(PY_OTHER_FORM);
}

static int reader_contains(PyObject *object, PyObject *name) {
    py_endpoint *self = (py_endpoint *)object;
    ipcheap_store_key key;
    PyObject *plain = take_key(object, name, &key);
    if (!plain) return -1;
    Py_DECREF(plain);
    int found = IPCHEAP_ENDPOINT_CLOSED;
    if (self->endpoint) found = holding_store_contains(self->endpoint, &key);
    if (found < 0) Py_XDECREF(refuse(object, found));
    return found < 0 ? -1 : found;
}

/* Looks at every cell, without the GIL. */
static int64_t entries(ipcheap_endpoint *reader, ipcheap_store_entry *into, size_t room) {
    return reader ? releasing_store_keys(reader, into, room) : IPCHEAP_ENDPOINT_CLOSED;
}

static Py_ssize_t reader_length(PyObject *object) {
    int64_t count = entries(((py_endpoint *)object)->endpoint, NULL, 0);
    if (count < 0) Py_XDECREF(refuse(object, count));
    return count < 0 ? -1 : (Py_ssize_t)count;
}

static PyObject *keys_of(const ipcheap_store_entry *found, int64_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (int64_t i = 0; list && i < count; i++) {
        PyObject *key = key_object(&found[i].key);
        if (key)
            PyList_SetItem(list, (Py_ssize_t)i, key);
        else
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *reader_keys(PyObject *object, PyObject *unused) {
    (void)unused;
    py_endpoint *self = (py_endpoint *)object;
    ipcheap_store_entry *found = NULL;
    int64_t count = 64, room;
    do {
        room = count + count / 8;
        PyMem_Free(found);
        found = PyMem_Calloc((size_t)room, sizeof *found);
        if (!found) return PyErr_NoMemory();
        count = entries(self->endpoint, found, (size_t)room);
    } while (count > room);
    PyObject *list = count < 0 ? refuse(object, count) : keys_of(found, count);
    PyMem_Free(found);
    return list;
}

/* Several chunks ------------------------------------------------------------------------- */

static void release_all(ipcheap_chunk *chunks, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (chunks[i].data) END_HOLD(&chunks[i]);
}

/* Returns a dict of the chunks that are there, for the keys of a list. */
static PyObject *dict_of(PyObject *self, PyObject *keys, ipcheap_chunk *chunks) {
    PyObject *made = PyDict_New();
    for (Py_ssize_t i = 0; i < PyList_Size(keys); i++) {
        if (!chunks[i].data) continue;
        PyObject *key = PyList_GetItem(keys, i), *chunk = NULL;
        if (made) chunk = chunk_of(self, &chunks[i], key);
        if (made && (!chunk || PyDict_SetItem(made, key, chunk) != 0)) Py_CLEAR(made);
        Py_XDECREF(chunk);
    }
    return made;
}

/* Replaces the keys in a list by plain ones; -1 with an exception. */
static int take_keys(PyObject *self, PyObject *list, ipcheap_store_key *keys) {
    for (Py_ssize_t i = 0; i < PyList_Size(list); i++) {
        PyObject *plain = take_key(self, PyList_GetItem(list, i), &keys[i]);
        if (!plain || PyList_SetItem(list, i, plain) != 0) return -1;
    }
    return 0;
}

/* Drops repeated keys from a list of plain ones: how many are left, -1 with an exception. */
static Py_ssize_t drop_repeated(PyObject *list, ipcheap_store_key *keys) {
    Py_ssize_t count = PyList_Size(list), kept = 0;
    PyObject *seen = PyDict_New();
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *key = PyList_GetItem(list, i);
        int again = seen ? PyDict_Contains(seen, key) : -1;
        if (again < 0 || PyDict_SetItem(seen, key, Py_None) != 0) {
            Py_XDECREF(seen);
            return -1;
        }
        if (again) continue;
        keys[kept] = keys[i];
        PyList_SetItem(list, kept++, Py_NewRef(key));
    }
    Py_DECREF(seen);
    return PyList_SetSlice(list, kept, count, NULL) == 0 ? kept : -1;
}

/* Gets the chunks of all keys of a list, each once if holds are short: how many keys, or an error. */
static int64_t get_several(py_endpoint *self, PyObject *list, ipcheap_store_key *keys,
                           ipcheap_chunk *chunks) {
    Py_ssize_t count = PyList_Size(list);
    if (!self->endpoint) return IPCHEAP_ENDPOINT_CLOSED;
    int64_t found = holding_store_get_many(self->endpoint, keys, (size_t)count, chunks);
    if (found == IPCHEAP_HOLDS) {
        Py_ssize_t fewer = drop_repeated(list, keys);
        if (fewer < 0) return PY_RAISED;
        if (fewer < count)
            found = holding_store_get_many(self->endpoint, keys, (size_t)fewer, chunks);
        count = fewer;
    }
    return found < 0 ? found : (int64_t)count;
}

static PyObject *reader_get_many(PyObject *object, PyObject *names) {
    py_endpoint *self = (py_endpoint *)object;
    PyObject *list = PySequence_List(names), *made = NULL; /* nobody else has it */
    if (!list) return NULL;
    size_t count = (size_t)PyList_Size(list), room = count ? count : 1;
    ipcheap_store_key *keys = PyMem_Calloc(room, sizeof *keys);
    ipcheap_chunk *chunks = PyMem_Calloc(room, sizeof *chunks);
    if (!keys || !chunks) {
        PyErr_NoMemory();
    } else if (take_keys(object, list, keys) == 0) {
        int64_t found = get_several(self, list, keys, chunks);
        if (found >= 0) made = dict_of(object, list, chunks);
        if (found < 0 && found != PY_RAISED) made = refuse(object, found);
        release_all(chunks, found < 0 ? 0 : found); /* those that no chunk has */
    }
    PyMem_Free(keys);
    PyMem_Free(chunks);
    Py_DECREF(list);
    return made;
}

static PyObject *list_of_chunks(PyObject *self, PyObject *key, ipcheap_chunk *chunks,
                                int64_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (int64_t i = 0; list && i < count; i++) {
        PyObject *chunk = chunk_of(self, &chunks[i], key);
        if (chunk)
            PyList_SetItem(list, (Py_ssize_t)i, chunk);
        else
            Py_CLEAR(list);
    }
    release_all(chunks, count);
    return list;
}

/* _history(key, room): the newest chunks of a key, at most `room`, oldest first. */
static PyObject *reader_history(PyObject *object, PyObject *arguments) {
    py_endpoint *self = (py_endpoint *)object;
    PyObject *name;
    Py_ssize_t room;
    ipcheap_store_key key;
    if (!PyArg_ParseTuple(arguments, "On", &name, &room)) return NULL;
    PyObject *plain = take_key(object, name, &key), *list = NULL;
    if (!plain) return NULL;
    ipcheap_chunk *chunks = PyMem_Calloc((size_t)room, sizeof *chunks);
    if (!chunks) {
        PyErr_NoMemory();
    } else {
        int64_t found = IPCHEAP_ENDPOINT_CLOSED;
        if (self->endpoint)
            found = holding_store_history(self->endpoint, &key, chunks, (size_t)room);
        list = found < 0 ? refuse(object, found) : list_of_chunks(object, plain, chunks, found);
    }
    PyMem_Free(chunks);
    Py_DECREF(plain);
    return list;
}

/* Following and waiting ------------------------------------------------------------------ */

/* Returns the next chunk, or the core's error as a number. */
static PyObject *next_or_code(PyObject *object, int *error) {
    py_endpoint *self = (py_endpoint *)object;
    ipcheap_chunk core;
    *error = IPCHEAP_ENDPOINT_CLOSED;
    if (self->endpoint) *error = holding_store_next(self->endpoint, &core);
    return *error ? NULL : chunk_of(object, &core, NULL);
}

/* The same, after a short spin if there is none yet. */
static PyObject *next_soon(PyObject *object, int *error) {
    PyObject *chunk = next_or_code(object, error);
    if (*error == IPCHEAP_WOULD_BLOCK && soon((py_endpoint *)object))
        chunk = next_or_code(object, error);
    return chunk;
}

static PyObject *reader_next(PyObject *object, PyObject *const *given, Py_ssize_t count,
                             PyObject *names) {
    static const char *const words[] = {"timeout", NULL};
    PyObject *arguments[1];
    int error;
    if (arguments_of(given, count, names, words, 0, arguments)) return NULL;
    PyObject *chunk = next_soon(object, &error);
    if (!error) return chunk;
    return PyObject_CallMethod(object, "_next_later", "iO", error, or_none(arguments[0]));
}

static PyObject *reader_try_next(PyObject *object, PyObject *unused) {
    int error;
    (void)unused;
    PyObject *chunk = next_or_code(object, &error);
    if (!error) return chunk;
    if (error == IPCHEAP_WOULD_BLOCK) Py_RETURN_NONE;
    return refuse(object, error);
}

/* _attempt(): for callers that do their own waiting: the next chunk, or an error. */
static PyObject *reader_attempt(PyObject *object, PyObject *unused) {
    int error;
    (void)unused;
    PyObject *chunk = next_or_code(object, &error);
    return error ? PyLong_FromLong(error) : chunk;
}

/* Waits for a key: 0 or an error. Keeps the GIL if it does not wait. */
static int wait_for(ipcheap_endpoint *reader, const ipcheap_store_key *key, uint64_t newer_than,
                    int64_t nanoseconds, ipcheap_chunk *core) {
    if (!reader) return IPCHEAP_ENDPOINT_CLOSED;
    return nanoseconds ? releasing_store_wait_for(reader, key, newer_than, nanoseconds, core)
                       : holding_store_wait_for(reader, key, newer_than, 0, core);
}

/* A chunk that is there is returned without a Python frame. */
static PyObject *reader_wait_for(PyObject *self, PyObject *const *given, Py_ssize_t count,
                                 PyObject *names) {
    static const char *const words[] = {"key", "newer_than", "timeout", NULL};
    PyObject *arguments[3], *plain;
    ipcheap_chunk core;
    uint64_t newer_than;
    if (arguments_of(given, count, names, words, 1, arguments)) return NULL;
    if (take_version(self, arguments[1], &newer_than) != 0) return NULL;
    int found = hold(self, arguments[0], newer_than, &core, &plain);
    if (found == PY_RAISED) return NULL;
    if (found < 0) return refuse(self, found);
    if (found == 0)
        return PyObject_CallMethod(self, "_wait_for_later", "OKO", arguments[0],
                                   (unsigned long long)newer_than, or_none(arguments[2]));
    PyObject *chunk = chunk_of(self, &core, plain);
    Py_DECREF(plain);
    return chunk;
}

/* _wait_for(key, newer_than, nanoseconds): the chunk of a key, or an error. */
static PyObject *reader_wait_for_some(PyObject *object, PyObject *arguments) {
    PyObject *name;
    unsigned long long newer_than;
    long long nanoseconds;
    ipcheap_store_key key;
    ipcheap_chunk core;
    if (!PyArg_ParseTuple(arguments, "OKL", &name, &newer_than, &nanoseconds)) return NULL;
    PyObject *plain = take_key(object, name, &key);
    if (!plain) return NULL;
    int error = wait_for(((py_endpoint *)object)->endpoint, &key, newer_than, nanoseconds, &core);
    PyObject *found = error ? PyLong_FromLong(error) : chunk_of(object, &core, plain);
    Py_DECREF(plain);
    return found;
}

/* Iterating ------------------------------------------------------------------------------ */

typedef struct py_follow {
    PyObject_HEAD
    PyObject *reader; /* NULL until _start() */
    PyObject *last;   /* the chunk that was given out last, to be released; or NULL */
} py_follow;

/* Ends the hold of the chunk that was given out last. */
static int follow_release(py_follow *self) {
    PyObject *last = self->last;
    self->last = NULL;
    if (!last) return 0;
    PyObject *done = Py_True;
    done = Py_REFCNT(last) > 1 ? PyObject_CallMethod(last, "_done_with", NULL) : Py_NewRef(done);
    Py_DECREF(last);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static void follow_dealloc(PyObject *object) {
    py_follow *self = (py_follow *)object;
    Py_XDECREF(self->last); /* of a loop that was left: its holder may go on using it */
    Py_XDECREF(self->reader);
    give_back(object);
}

static PyObject *follow_next(PyObject *object) {
    py_follow *self = (py_follow *)object;
    int error;
    if (!self->reader || follow_release(self) != 0) return NULL;
    PyObject *chunk = next_soon(self->reader, &error);
    if (error) chunk = PyObject_CallMethod(object, "_late", "i", error);
    if (chunk) self->last = Py_NewRef(chunk);
    return chunk;
}

static PyObject *follow_start(PyObject *object, PyObject *reader) {
    py_follow *self = (py_follow *)object;
    Py_XDECREF(self->reader);
    self->reader = Py_NewRef(reader);
    Py_RETURN_NONE;
}

/* _give(chunk): makes it the one that was given out last. */
static PyObject *follow_give(PyObject *object, PyObject *chunk) {
    py_follow *self = (py_follow *)object;
    if (follow_release(self) != 0) return NULL;
    self->last = Py_NewRef(chunk);
    return Py_NewRef(chunk);
}

/* _release(): ends the hold of the chunk that was given out last. */
static PyObject *follow_let_go(PyObject *object, PyObject *unused) {
    (void)unused;
    if (follow_release((py_follow *)object) != 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *follow_self(PyObject *self) { return Py_NewRef(self); }

PyObject *follow_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"_start", follow_start, METH_O, SIGNATURE("_start($self, reader, /)")},
        {"_give", follow_give, METH_O, SIGNATURE("_give($self, chunk, /)")},
        {"_release", follow_let_go, METH_NOARGS, SIGNATURE("_release($self, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)follow_dealloc},
        {Py_tp_iter, (void *)follow_self},
        {Py_tp_iternext, (void *)follow_next},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.FollowCore",
        .basicsize = sizeof(py_follow),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

/* Types ---------------------------------------------------------------------------------- */

#define BIND \
    {"_bind", endpoint_bind, METH_VARARGS, SIGNATURE("_bind($self, address, memory, source, /)")}

PyDoc_STRVAR(put_text,
             "put($self, /, key, data, ttl=None)\n--\n\n"
             "Put a copy of a bytes-like object as the newest chunk of a key; return its version.\n\n"
             "It replaces the oldest chunk of the key beyond the store's depth. With the key None it\n"
             "can be followed, and is never replaced. Of an array only the bytes are kept: `loan`\n"
             "keeps its shape and dtype. `ttl` is how many seconds it lives, infinity for a chunk\n"
             "that never expires, None as the store says. HeapFull, whose text names the limit, if\n"
             "there is no room, TypeError if `data` has no bytes; then nothing has changed.");
PyDoc_STRVAR(append_text,
             "append($self, /, data, ttl=None)\n--\n\n"
             "Put a copy of a bytes-like object without a key; return its version. See `put`.");
PyDoc_STRVAR(put_record_text,
             "put_record($self, /, key, record, ttl=None)\n--\n\n"
             "Put a record of the heap without a copy; return its version.\n\n"
             "It may have been allocated, or received on any channel of the heap. Afterwards it is\n"
             "dead, as after a send; if the call or its transaction fails, it is the caller's again.\n"
             "RecordError for a record that was freed or sent, or of another heap. `ttl` and errors\n"
             "are those of `put`.");
PyDoc_STRVAR(delete_text,
             "delete($self, key, /)\n--\n\n"
             "Delete all chunks of a key; return whether it had one.\n\n"
             "That is a commit with a version, but no chunk. What readers hold stays with them.");
PyDoc_STRVAR(collect_text,
             "collect($self, /)\n--\n\n"
             "Free all chunks that are dead and not held; return how many bytes those were.");
PyDoc_STRVAR(get_text,
             "get($self, /, key, default=None, *, newer_than=0)\n--\n\n"
             "Return the newest chunk of a key, which is held until it is released.\n\n"
             "`default` if there is none, or if its version is not above `newer_than`. RecordError\n"
             "if this reader holds as many chunks as it may.");
PyDoc_STRVAR(get_bytes_text,
             "get_bytes($self, /, key, default=None)\n--\n\n"
             "Return a copy of the newest chunk of a key; `default` if there is none.\n\n"
             "It needs no hold, so it also works for a reader that holds as many as it may.");
PyDoc_STRVAR(get_many_text,
             "get_many($self, keys, /)\n--\n\n"
             "Return the newest chunks of several keys, all as of one moment, in a dict.\n\n"
             "Keys that have no chunk are left out. TimeoutError if collections intervened in 1,000\n"
             "attempts, RecordError if the reader may not hold so many; then none is held.");
PyDoc_STRVAR(keys_text,
             "keys($self, /)\n--\n\n"
             "Return the keys that have a chunk, by ascending version. It looks at every slot.");
PyDoc_STRVAR(next_text,
             "next($self, /, timeout=None)\n--\n\n"
             "Return the live chunk with the smallest version above the position, which moves there.\n\n"
             "Waits `timeout` seconds, None indefinitely. TimeoutError if nothing came, ChannelClosed\n"
             "or PeerDied if there is nothing and the writer has closed or died. RecordError if this\n"
             "reader holds as many chunks as it may; then the position has not moved.");
PyDoc_STRVAR(wait_for_text,
             "wait_for($self, /, key, newer_than=0, timeout=None)\n--\n\n"
             "Return the newest chunk of a key as soon as its version is above `newer_than`.\n\n"
             "Commits to other keys do not wake it, once the key has a chunk. The position does not\n"
             "move. Waits `timeout` seconds, None indefinitely; then TimeoutError. ChannelClosed or\n"
             "PeerDied if it would have to wait and the writer has closed or died. RecordError if\n"
             "this reader holds as many chunks as it may.");
PyDoc_STRVAR(try_next_text,
             "try_next($self, /)\n--\n\n"
             "Return what `next` would, or None if it would have to wait; never waits.\n\n"
             "ChannelClosed or PeerDied as `next`.");

PyObject *store_writer_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"put", NAMED(writer_put), put_text},
        {"append", NAMED(writer_append), append_text},
        {"put_record", NAMED(writer_put_record), put_record_text},
        {"delete", writer_delete, METH_O, delete_text},
        {"collect", writer_collect, METH_NOARGS, collect_text},
        {"_put_many", writer_put_many, METH_VARARGS, SIGNATURE("_put_many($self, pairs, ttl, /)")},
        {"_evict", writer_evict, METH_O, SIGNATURE("_evict($self, nbytes, /)")},
        {"_begin", writer_begin, METH_NOARGS, SIGNATURE("_begin($self, /)")},
        {"_commit", writer_commit, METH_NOARGS, SIGNATURE("_commit($self, /)")},
        {"_abort", writer_abort, METH_NOARGS, SIGNATURE("_abort($self, /)")},
        {"_settle", writer_settle, METH_VARARGS, SIGNATURE("_settle($self, record, committed, /)")},
        BIND,
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)endpoint_dealloc},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.StoreWriterCore",
        .basicsize = sizeof(py_side),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

PyObject *store_reader_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"get", NAMED(reader_get), get_text},
        {"get_bytes", NAMED(reader_get_bytes), get_bytes_text},
        {"get_many", reader_get_many, METH_O, get_many_text},
        {"keys", reader_keys, METH_NOARGS, keys_text},
        {"next", NAMED(reader_next), next_text},
        {"try_next", reader_try_next, METH_NOARGS, try_next_text},
        {"_grip", reader_grip, METH_VARARGS, SIGNATURE("_grip($self, key, form, /)")},
        {"_history", reader_history, METH_VARARGS, SIGNATURE("_history($self, key, room, /)")},
        {"_attempt", reader_attempt, METH_NOARGS, SIGNATURE("_attempt($self, /)")},
        {"wait_for", NAMED(reader_wait_for), wait_for_text},
        {"_wait_for", reader_wait_for_some, METH_VARARGS,
         SIGNATURE("_wait_for($self, key, newer_than, nanoseconds, /)")},
        BIND,
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)endpoint_dealloc},  {Py_tp_methods, methods},
        {Py_sq_contains, (void *)reader_contains},  {Py_mp_length, (void *)reader_length},
        {Py_mp_subscript, (void *)reader_get_item}, {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.StoreReaderCore",
        .basicsize = sizeof(py_endpoint),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return make_type(&type, &spec);
}
