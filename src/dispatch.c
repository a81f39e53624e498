/* dispatch.c: which tables this processor *and* its operating system can run.  Compiled once for each SF_TABLE, the
 * type of a table, with which its names begin: sf_kernels, sf_vectors.
 *
 * A CPUID bit says what the processor has; XCR0 says which registers the operating system saves.  Both must hold, or a
 * kernel faults, or loses the upper halves of its registers at a context switch.  Every feature that the compiler was
 * allowed to use for a table is tested.  This file itself is compiled for the baseline.
 */
#include "port.h"
#include "softfast.h"
#include "vectors.h"

extern const SF_TABLE SF_PASTE(SF_TABLE, baseline);
#ifdef SF_HAVE_AVX2
extern const SF_TABLE SF_PASTE(SF_TABLE, avx2);
#endif
#ifdef SF_HAVE_AVX512
extern const SF_TABLE SF_PASTE(SF_TABLE, avx512);
#endif
#ifdef SF_HAVE_NEON
extern const SF_TABLE SF_PASTE(SF_TABLE, neon);
#endif

#if defined(SF_HAVE_AVX2) || defined(SF_HAVE_AVX512)
#include <cpuid.h>

static uint64_t sf_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int sf_all(uint64_t bits, uint64_t wanted) { return (bits & wanted) == wanted; }

static void sf_detect(int *avx2, int *avx512) {
    uint32_t a, b, c1, d, b7, c7;
    *avx2 = *avx512 = 0;
    if (!__get_cpuid_count(1, 0, &a, &b, &c1, &d) || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d))
        return;
    if (!sf_all(c1, bit_OSXSAVE | bit_AVX | bit_FMA) || !sf_all(b7, bit_AVX2))
        return;
    uint64_t saved = sf_xcr0();
    *avx2 = sf_all(saved, 0x6);    /* XMM and YMM state */
    *avx512 = sf_all(saved, 0xe6)  /* and mask registers, upper halves of ZMM0-15, ZMM16-31 */
              && sf_all(b7, bit_AVX512F | bit_AVX512VL | bit_AVX512DQ | bit_AVX512BW);
}
#endif

const SF_TABLE *const *SF_PASTE(SF_TABLE, available)(void) {
    static const SF_TABLE *tables[4];
    int n = 0;
#if defined(SF_HAVE_AVX2) || defined(SF_HAVE_AVX512)
    int avx2, avx512;
    sf_detect(&avx2, &avx512);
#ifdef SF_HAVE_AVX512
    if (avx512)
        tables[n++] = &SF_PASTE(SF_TABLE, avx512);
#endif
#ifdef SF_HAVE_AVX2
    if (avx2)
        tables[n++] = &SF_PASTE(SF_TABLE, avx2);
#endif
#endif
#ifdef SF_HAVE_NEON
    tables[n++] = &SF_PASTE(SF_TABLE, neon);
#else
    tables[n++] = &SF_PASTE(SF_TABLE, baseline);
#endif
    tables[n] = NULL;
    return tables;
}
