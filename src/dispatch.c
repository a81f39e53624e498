/* dispatch.c: which tables this processor *and* its operating system can run.
 *
 * A CPUID bit says what the processor has; XCR0 says which registers the operating system saves.  Both must hold, or a
 * kernel faults, or loses the upper halves of its registers at a context switch.  Every feature that the compiler was
 * allowed to use for a table is tested.  This file itself is compiled for the baseline.
 */
#include "softfast.h"

extern const sf_kernels sf_kernels_baseline;
#ifdef SF_HAVE_AVX2
extern const sf_kernels sf_kernels_avx2;
#endif
#ifdef SF_HAVE_AVX512
extern const sf_kernels sf_kernels_avx512;
#endif
#ifdef SF_HAVE_NEON
extern const sf_kernels sf_kernels_neon;
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

const sf_kernels *const *sf_available(void) {
    static const sf_kernels *tables[4];
    int n = 0;
#if defined(SF_HAVE_AVX2) || defined(SF_HAVE_AVX512)
    int avx2, avx512;
    sf_detect(&avx2, &avx512);
#ifdef SF_HAVE_AVX512
    if (avx512)
        tables[n++] = &sf_kernels_avx512;
#endif
#ifdef SF_HAVE_AVX2
    if (avx2)
        tables[n++] = &sf_kernels_avx2;
#endif
#endif
#ifdef SF_HAVE_NEON
    tables[n++] = &sf_kernels_neon;
#else
    tables[n++] = &sf_kernels_baseline;
#endif
    tables[n] = NULL;
    return tables;
}
