/*
 * module.c - ipcheap._core: the module that cffi makes, with the types of types.h added.
 *
 * cffi generates the function that Python calls to import the module. core.csrc.c renames that
 * one to core_of_cffi(); PyInit__core() here calls it.
 */
#include "chunk.h"

PyMODINIT_FUNC core_of_cffi(void);

/*
 * Returns 0 in the main interpreter, otherwise -1 with ImportError: the types and the class of all
 * records belong to the process, and would end with the interpreter that made them.
 */
static int only_in_main(void) {
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) == 0) return 0;
    PyErr_SetString(PyExc_ImportError,
                    "ipcheap works in the main interpreter of a process only, not in a "
                    "subinterpreter");
    return -1;
}

/* The first call of the package, because Python may share a loaded module without PyInit__core(). */
static PyObject *require_main(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    if (only_in_main()) return NULL;
    Py_RETURN_NONE;
}

/*
 * use_records(subclass, made): sets the class of all records, and what is called with each record
 * that is made, or None.
 */
static PyObject *use_records(PyObject *module, PyObject *arguments) {
    PyObject *subclass, *made;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO", &subclass, &made)) return NULL;
    record_use_class(subclass, made);
    Py_RETURN_NONE;
}

/* use_messages(subclass): sets the class of all messages of buses. */
static PyObject *use_messages(PyObject *module, PyObject *subclass) {
    (void)module;
    message_use_class(subclass);
    Py_RETURN_NONE;
}

/* use_chunks(subclass): sets the class of all chunks of stores. */
static PyObject *use_chunks(PyObject *module, PyObject *subclass) {
    (void)module;
    chunk_use_class(subclass);
    Py_RETURN_NONE;
}

/* Adds a type, or passes on that it could not be made. */
static int add(PyObject *module, const char *name, PyObject *type) {
    return type ? PyModule_AddObjectRef(module, name, type) : -1;
}

PyMODINIT_FUNC PyInit__core(void) {
    static PyMethodDef functions[] = {
        {"use_records", use_records, METH_VARARGS,
         "use_records($module, subclass, made, /)\n--\n\n"},
        {"use_chunks", use_chunks, METH_O, "use_chunks($module, subclass, /)\n--\n\n"},
        {"use_messages", use_messages, METH_O, "use_messages($module, subclass, /)\n--\n\n"},
        {"require_main", require_main, METH_NOARGS, "require_main($module, /)\n--\n\n"},
        {NULL, NULL, 0, NULL},
    };
    if (only_in_main()) return NULL;
    PyObject *module = core_of_cffi();
    if (!module) return NULL;
    if (PyModule_AddFunctions(module, functions) || add(module, "MemoryCore", memory_type()) ||
        add(module, "RecordCore", record_type()) || add(module, "ProducerCore", producer_type()) ||
        add(module, "ConsumerCore", consumer_type()) || add(module, "WriterCore", writer_type()) ||
        add(module, "ReaderCore", reader_type()) || add(module, "BlocksCore", blocks_type()) ||
        add(module, "StoreWriterCore", store_writer_type()) ||
        add(module, "StoreReaderCore", store_reader_type()) ||
        add(module, "FollowCore", follow_type()) || add(module, "ChunkCore", chunk_type()) ||
        add(module, "BusCore", bus_type()))
        Py_CLEAR(module);
#ifdef Py_GIL_DISABLED
    if (module) PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED); /* gil.h says why */
#endif
    return module;
}
