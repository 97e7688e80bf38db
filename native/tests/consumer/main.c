/* main.c - what a stranger builds against an installed ipcheap. */

#include <ipcheap/ipcheap.h>

#include <stdio.h>

int main(void)
{
    return puts(ipcheap_version_string()) < 0;
}
