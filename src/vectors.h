/* vectors.h: sums and steps over parts of vectors as long as all coefficients, one table of functions an instruction
 * set.  All are serial; Cython owns the parts.
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef SOFTFAST_VECTORS_H
#define SOFTFAST_VECTORS_H

#include <stddef.h>

/* What derive reads and writes: matrices (p, m) in C order, the rows of product `stride` apart; center, mean and size
 * (p,), residual (m,). */
typedef struct {
    const double *coef, *product, *means /* or NULL */, *scale, *center, *mean, *size, *residual;
    double *flat;
    ptrdiff_t m, stride;
    double total, ridge;
} sf_derivatives;

/* Functions of vectors of one type, with vectors of float64. */
typedef struct {
    double (*dot)(const void *x, const double *y, ptrdiff_t n);
    /* out = x + factor direction */
    void (*step)(double *out, const double *x, double factor, const void *direction, ptrdiff_t n);
    /* out = sum_k factors[k] v_k + factor other, v_k at vectors + rows[k] size; narrow: out is of float32. */
    void (*combine)(void *out, int narrow, const void *vectors, ptrdiff_t size, const ptrdiff_t *rows,
                    const double *factors, ptrdiff_t n_rows, const double *other, double factor, ptrdiff_t n);
    /* v_turned = (after - before) / divisor; sums (n_rows + 1,) are <v_k, after>, and <v_turned, v_turned>. */
    void (*turn)(void *vectors, ptrdiff_t size, const ptrdiff_t *rows, ptrdiff_t n_rows, ptrdiff_t turned, double *sums,
                 const double *after, const double *before, double divisor, ptrdiff_t n);
} sf_real_vectors;

typedef struct {
    const char *name;
    /* Of absolute values, passing over NaN. */
    double (*largest)(const double *x, ptrdiff_t n);
    /* out (n, m) = x / scale, minus the means of its rows if centre_rows; sums (m,) = center out. */
    void (*unscale)(double *out, double *sums, const double *x, const double *scale, const double *center,
                    int centre_rows, ptrdiff_t n, ptrdiff_t m);
    /* Of the rows [begin, end), with G = product / total, W = coef, D = G + ridge W: flat = (D - center residual^T) /
     * scale; sums (5 + 3 m,): D^2, G W, W^2, G^2 and G means over all, G mean, W mean and abs(W) size by columns. */
    void (*derive)(double *sums, const sf_derivatives *job, ptrdiff_t begin, ptrdiff_t end);
    sf_real_vectors of[2]; /* float32, float64 */
} sf_vectors;

/* The tables that this build has and this processor can run, best first, ended by NULL. */
const sf_vectors *const *sf_vectors_available(void);

#endif
