/* libFuzzer's entry point to corrupt.h; see docs/design/corruption.md. */
#include <string.h>

#include "corrupt.h"

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    (void)count;
    (void)arguments;
    corrupt_prepare();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    unsigned char alone[CASE_MOST] = {0};
    if (size > sizeof alone) return 0;
    memcpy(alone, bytes, size);
    alone[3] = 0; /* the same on every run */
    corrupt_run(alone, size);
    return 0;
}
