/*
 * module.c - ipcheap._core: the module that cffi makes, with the types of types.h added.
 *
 * cffi generates the function that Python calls to import the module. core.csrc.c renames that
 * one to core_of_cffi(); PyInit__core() here calls it.
 */
#include "types.h"

PyMODINIT_FUNC core_of_cffi(void);

/*
 * use_records(subclass, made): sets the class of all records, and what is called with each record
 * that is made, or None. Raises ImportError in any interpreter except the first that called it,
 * because types and class belong to the process.
 */
static PyObject *use_records(PyObject *module, PyObject *arguments) {
    static int64_t first = -1;
    int64_t here = PyInterpreterState_GetID(PyInterpreterState_Get());
    PyObject *subclass, *made;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO", &subclass, &made)) return NULL;
    if (first >= 0 && here != first) {
        PyErr_SetString(PyExc_ImportError,
                        "another interpreter of this process uses ipcheap, and only one can");
        return NULL;
    }
    first = here;
    record_use_class(subclass, made);
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
        {NULL, NULL, 0, NULL},
    };
    PyObject *module = core_of_cffi();
    if (!module) return NULL;
    if (PyModule_AddFunctions(module, functions) || add(module, "MemoryCore", memory_type()) ||
        add(module, "RecordCore", record_type()) || add(module, "ProducerCore", producer_type()) ||
        add(module, "ConsumerCore", consumer_type()))
        Py_CLEAR(module);
    return module;
}
