/* shared.c - layer base: the two words that test builds need beside shared.h. */
#include "base/shared.h"

#ifdef IPCHEAP_STEPS
void (*_Atomic ipcheap_step_hook)(const char *file, int line);
#endif

#ifdef __SANITIZE_THREAD__
_Atomic(uint32_t) ipcheap_fence_word;
#endif
