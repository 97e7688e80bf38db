/* shared.c - layer base: two words that only test builds have. */
#include "base/shared.h"

#ifdef IPCHEAP_STEPS
void (*_Atomic ipcheap_step_hook)(const char *file, int line);
#endif

#ifdef __SANITIZE_THREAD__
_Atomic(uint32_t) ipcheap_fence_word;
#endif
