/* main.c - what a stranger builds against an installed ipcheap: a record there and back. */

#define _GNU_SOURCE
#include <ipcheap/ipcheap.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static int failed(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, ipcheap_error_text(error));
    return 1;
}

int main(void) {
    ipcheap_options options = {.capacity = 1 << 20};
    ipcheap_heap *heap;
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_endpoint *producer, *consumer;
    ipcheap_record record;
    int error, fd = memfd_create("consumer", 0);

    if (puts(ipcheap_version_string()) < 0) return 1;
    if ((error = ipcheap_format(fd, -1, &options))) return failed("format", error);
    if ((error = ipcheap_attach(fd, -1, &heap))) return failed("attach", error);
    if ((error = ipcheap_key_text(&key, "greetings", 9))) return failed("key", error);
    if ((error = ipcheap_add_record_channel(heap, &key, 16, &channel))) return failed("add", error);
    if ((error = ipcheap_claim(heap, &channel, IPCHEAP_PRODUCER, &producer)))
        return failed("claim", error);
    if ((error = ipcheap_claim(heap, &channel, IPCHEAP_CONSUMER, &consumer)))
        return failed("claim", error);
    if ((error = ipcheap_allocate(heap, 6, &record))) return failed("allocate", error);
    memcpy(record.data, "hello", 6);
    if ((error = ipcheap_send(producer, &record, -1))) return failed("send", error);
    if ((error = ipcheap_receive(consumer, &record, -1))) return failed("receive", error);
    if (strcmp(record.data, "hello") != 0) return 1;
    if ((error = ipcheap_free(heap, &record))) return failed("free", error);
    ipcheap_endpoint_release(producer);
    ipcheap_endpoint_release(consumer);
    ipcheap_release(heap);
    return 0;
}
