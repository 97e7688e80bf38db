#include "base/fault.h"

#ifdef IPCHEAP_STEPS
bool (*_Atomic ipcheap_fault_hook)(const char *file, int line);
#endif
