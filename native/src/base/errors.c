/* errors.c - layer base: the version, and the texts of errors. */
#include "ipcheap/ipcheap.h"

const char *ipcheap_version_string(void) { return IPCHEAP_VERSION; }

const char *ipcheap_error_text(int error) {
    switch (error) {
#define X(name, value, text) \
    case IPCHEAP_##name:     \
        return text;
        IPCHEAP_ERRORS(X)
#undef X
    default:
        return error >= 0 ? "success" : "unknown error";
    }
}
