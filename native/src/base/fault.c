#include "base/fault.h"

#ifdef IPCHEAP_STEPS
bool (*_Atomic ipcheap_fault_hook)(int number, const char *file, int line);
#endif
