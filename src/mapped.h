/* mapped.h: memory that is a mapped file, read without fear of SIGBUS. */
#ifndef SF_MAPPED_H
#define SF_MAPPED_H

#include <stddef.h>

/* Watches whole pages of memory; returns their number for the functions below, -1 where nothing can be watched: on
 * systems that never cut off a mapped file, or if 64 are watched already.  Not for two threads at once. */
int sf_watch(const void *memory, size_t n_bytes);

/* Whether zeros have taken the place of some of it. */
int sf_broken(int number);

/* Before the memory is unmapped. */
void sf_unwatch(int number);

#endif
