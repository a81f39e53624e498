/* vmath.h: exp, log and log1p on vectors of REAL.  Included once for each REAL, after vec.h.
 *
 * exp: at most 1 ulp (float64) and 2 ulp (float32) from the true value on the whole line, subnormal results and both
 * infinities included; NaN stays NaN.  log: the same bounds for x >= 0, log(0) = -inf, log(x < 0) = NaN.
 * log1p: for x >= 0.  The bounds are measured by tests/test_vmath.py.
 *
 * exp(x) = 2^n exp(r), n = rint(x / ln 2), |r| <= ln 2 / 2, exp(r) = 1 + (r + r^2 P(r)).
 * log(x) = n ln 2 + log(1 + f), 1/sqrt(2) <= 1 + f < sqrt(2), by the series in s = f / (2 + f) with the first terms
 * kept apart (Tang 1990, ACM TOMS 16; the arrangement is that of fdlibm's e_log.c).
 * P and Q are minimax polynomials, found by the Remez exchange in 60 digits: relative error of exp 2^-28.3 (float32)
 * and 2^-57.9 (float64), of log 2^-30 and 2^-59.
 */
#if REAL_BITS == 32
enum { N(mantissa_bits) = 23, N(exponent_bias) = 127 };
#define SF_LOG2E 1.44269504088896341f
#define SF_LN2_HIGH 0.693359375f /* 9 bits, so that n * SF_LN2_HIGH is exact without an FMA too */
#define SF_LN2_LOW -2.12194440054690583e-4f
#define SF_ROUND 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, in the low bits of the sum */
#define SF_EXP_MIN -104.0f   /* below, exp rounds to 0 */
#define SF_EXP_MAX 89.0f     /* above, exp rounds to inf */
#define SF_SMALLEST_NORMAL 1.17549435e-38f
#define SF_NEGLIGIBLE 0x1p-100f /* of a probability */
#define SF_SQRT_HALF 0.70710678f
static const REAL N(exp_p)[] = {0.4999999403953552f, 0.1666652113199234f, 0.04166838899254799f, 0.00836874544620514f,
                                0.0013814540579915047f};
static const REAL N(log_q)[] = {0.6666677594184875f, 0.3997744917869568f, 0.29874420166015625f};
#else
enum { N(mantissa_bits) = 52, N(exponent_bias) = 1023 };
#define SF_LOG2E 1.44269504088896340736
#define SF_LN2_HIGH 0.693147180369123816490 /* 32 bits */
#define SF_LN2_LOW 1.90821492927058770002e-10
#define SF_ROUND 6755399441055744.0 /* 1.5 * 2^52 */
#define SF_EXP_MIN -746.0
#define SF_EXP_MAX 710.0
#define SF_SMALLEST_NORMAL 2.2250738585072014e-308
#define SF_NEGLIGIBLE 0x1p-900
#define SF_SQRT_HALF 0.70710678118654752
static const REAL N(exp_p)[] = {0.5000000000000011,     0.1666666666666641,     0.041666666666529725,
                                0.008333333333494976,   0.0013888888943759982,  0.00019841269505773814,
                                2.480149294961807e-05,  2.755758680384339e-06,  2.7630306255321585e-07,
                                2.5000018853790677e-08};
static const REAL N(log_q)[] = {0.6666666666666735,  0.39999999999407476, 0.28571428744143096, 0.2222219837832095,
                                0.18183575172939026, 0.1531375558145905,  0.14799067796122423};
#endif
#define SF_DEGREE(table) ((int)(sizeof(table) / sizeof(table[0])) - 1)

SF_INLINE N(vec) N(polynomial)(N(vec) x, const REAL *coefficient, const int degree) {
    N(vec) y = N(broadcast)(coefficient[degree]);
    SF_UNROLL
    for (int i = degree - 1; i >= 0; i--)
        y = y * x + coefficient[i];
    return y;
}

/* 2^n for integers n whose result is a normal number. */
SF_INLINE N(vec) N(power_of_two)(N(ivec) n) {
    return N(from_bits)((N(ivec))((N(uvec))(n + N(exponent_bias)) << N(mantissa_bits)));
}

/* A probability, or 0 where it is negligible: a product with a subnormal number takes a hundred times as long, and
 * where a model is sure of all its rows most probabilities are small. */
SF_INLINE N(vec) N(not_negligible)(N(vec) p) {
    return N(select)(N(less)(p, N(broadcast)(SF_NEGLIGIBLE)), N(broadcast)(0), p);
}

/* exp(x) where x <= SF_EXP_MAX or NaN: differences from a maximum, for one. */
SF_INLINE N(vec) N(exp_small)(N(vec) x) {
    /* Keeps n in range; written so that NaN passes through. */
    x = N(max)(N(broadcast)(SF_EXP_MIN), x);
    N(vec) shifted = x * SF_LOG2E + SF_ROUND;
    N(vec) n = shifted - SF_ROUND;
    N(vec) high = x - n * SF_LN2_HIGH, r = high - n * SF_LN2_LOW;
    N(vec) rest = (r * r) * N(polynomial)(r, N(exp_p), SF_DEGREE(N(exp_p)));
#if REAL_BITS == 64
    /* What the rounding of r lost: without it the result errs by up to 1.03 ulp. */
    rest += (high - r) - n * SF_LN2_LOW;
#endif
    N(vec) y = (r + rest) + 1;
#if defined(__AVX512F__) && REAL_BITS == 32
    return (N(vec))_mm512_scalef_ps((__m512)y, (__m512)n);
#elif defined(__AVX512F__)
    return (N(vec))_mm512_scalef_pd((__m512d)y, (__m512d)n);
#else
    /* Two factors, for 2^n itself may be no normal number; the first product is exact, the second rounds once. */
    N(ivec) k = N(bits)(shifted) - N(bits)(N(broadcast)(SF_ROUND));
    N(ivec) half = k >> 1;
    return y * N(power_of_two)(half) * N(power_of_two)(k - half);
#endif
}

SF_INLINE N(vec) N(exp)(N(vec) x) {
    return N(exp_small)(N(select)(N(less)(N(broadcast)(SF_EXP_MAX), x), N(broadcast)(SF_EXP_MAX), x));
}

SF_INLINE N(vec) N(log)(N(vec) x) {
    N(vec) zero = {0};
    N(mask) subnormal = N(less)(x, N(broadcast)(SF_SMALLEST_NORMAL));
    N(vec) scaled = N(select)(subnormal, x * N(power_of_two)((N(ivec)){0} + N(mantissa_bits) + 1), x);
    /* Subtracting the bits of sqrt(1/2) splits x = 2^n m with sqrt(1/2) <= m < sqrt(2). */
    N(ivec) offset = N(bits)(N(broadcast)(SF_SQRT_HALF));
    N(ivec) exponent = (N(ivec))((N(uvec))N(bits)(scaled) - (N(uvec))offset) >> N(mantissa_bits);
    N(uvec) mantissa = (N(uvec))N(bits)(scaled) - ((N(uvec))exponent << N(mantissa_bits));
    N(vec) f = N(from_bits)((N(ivec))mantissa) - 1;
    N(vec) n = N(from_bits)(exponent + N(bits)(N(broadcast)(SF_ROUND))) - SF_ROUND;
    n -= N(keep)(N(broadcast)(N(mantissa_bits) + 1), subnormal);

    N(vec) s = f / (f + 2), z = s * s;
    N(vec) tail = z * N(polynomial)(z, N(log_q), SF_DEGREE(N(log_q)));
    N(vec) half_square = f * f * (REAL)0.5;
    N(vec) y = n * SF_LN2_HIGH - ((half_square - (s * (half_square + tail) + n * SF_LN2_LOW)) - f);

    N(vec) infinity = N(broadcast)((REAL)INFINITY);
    y = N(select)(N(equal)(x, infinity), infinity, y);
    y = N(select)(N(equal)(x, zero), -infinity, y);
    return N(select)(N(less)(x, zero) | N(differ)(x, x), zero * (REAL)NAN, y);
}

/* log(u) + (x - (u - 1)) / u with u = fl(1 + x) undoes the rounding of the sum (Kahan). */
SF_INLINE N(vec) N(log1p)(N(vec) x) {
    N(vec) u = x + 1;
    N(vec) lost = x - (u - 1);
    return N(log)(u) + lost / u;
}

#undef SF_LOG2E
#undef SF_LN2_HIGH
#undef SF_LN2_LOW
#undef SF_ROUND
#undef SF_EXP_MIN
#undef SF_EXP_MAX
#undef SF_SMALLEST_NORMAL
#undef SF_SQRT_HALF
#undef SF_DEGREE
