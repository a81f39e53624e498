/* port.h: differences between compilers and instruction sets, as far as they are not operations on vectors.
 *
 * Without GNU vector extensions, or with SF_PLAIN_C, everything below is plain C, and a vector is one number.
 */
#ifndef SF_PORT_H
#define SF_PORT_H

#if defined(__GNUC__) && !defined(SF_PLAIN_C)
#define SF_VECTORS 1
#define SF_INLINE static inline __attribute__((always_inline, unused))
#define SF_UNROLL _Pragma("GCC unroll 16")
#define SF_PREFETCH(address) __builtin_prefetch(address)
#define SF_PREFETCH_L2(address) __builtin_prefetch(address, 0, 2)
#if defined(__AVX512F__)
#define SF_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define SF_VECTOR_BYTES 32
#else
#define SF_VECTOR_BYTES 16
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
/* Orders streaming stores before whatever follows. */
#if defined(__AVX2__)
#define SF_STREAM_FENCE() _mm_sfence()
#else
#define SF_STREAM_FENCE() ((void)0)
#endif
/* Registers decide how many accumulators a micro-kernel may hold: 32 vector registers, or 16. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define SF_MANY_REGISTERS 1
#else
#define SF_MANY_REGISTERS 0
#endif
/* Keeps a vector in a register: otherwise GCC folds its load into each of the FMAs that use it, and the load ports,
 * not the FMA units, set the pace (dot product of 54 features, 7 classes: 20 loads where 8 do). */
#if defined(__AVX512F__)
#define SF_IN_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__x86_64__)
#define SF_IN_REGISTER(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define SF_IN_REGISTER(v) __asm__("" : "+w"(v))
#else
#define SF_IN_REGISTER(v) ((void)0)
#endif
#else
#define SF_VECTORS 0
#define SF_INLINE static inline
#define SF_UNROLL
#define SF_IN_REGISTER(v) ((void)0)
#define SF_PREFETCH(address) ((void)(address))
#define SF_PREFETCH_L2(address) ((void)(address))
#define SF_STREAM_FENCE() ((void)0)
#define SF_MANY_REGISTERS 0
#endif

/* Names with a suffix, and as strings. */
#define SF_PASTE_(a, b) a##_##b
#define SF_PASTE(a, b) SF_PASTE_(a, b)
#define SF_STRING_(a) #a
#define SF_STRING(a) SF_STRING_(a)

/* Strides that the 32-bit offsets of gathers reach from 16 lanes. */
#define SF_STRIDE_LIMIT (1 << 26)

#endif
