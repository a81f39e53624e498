/* softfast.h: the one header the binding sees.
 *
 * Cython owns the batch, C owns the block.  Every function here is serial, works on the rows [begin, end) that it is
 * given, allocates nothing, keeps no state and trusts its caller; explanations for users are made in Python.
 *
 * n rows, p features, K classes.  A model has M coefficient rows: M = K, or M = K - 1 where class 0 is the reference
 * class whose logits are zero (logistic regression is K = 2, M = 1).  Strides count elements, never bytes.
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef SOFTFAST_H
#define SOFTFAST_H

#include <stddef.h>
#include <stdint.h>

#define SF_ALIGNMENT 64   /* bytes; of every scratch and model buffer */
#define SF_PANEL 32       /* classes of a panel, where classes lie across the lanes */
#define SF_PACK_ROWS 32   /* rows that are transposed at a time, where they are */
#define SF_PACK_BYTES (32 * 1024) /* of their tile at most: two thirds of a first-level cache */
#define SF_GRAM_ROWS 64   /* rows of a block of a Gram matrix: four lines of each, half a first-level cache */
#define SF_GRAM_COLUMNS 8 /* float64 numbers of a line */
#define SF_MAX_LANES 16   /* lanes of the widest vector; the padding unit of tiles and packed coefficients */

/* X (n, p): element (i, j) at data[i * row_stride + j * feature_stride]; one of the two strides is 1.  offset, or NULL:
 * what is added to logit k of row i, at offset[i * offset_stride + k]. */
typedef struct {
    const void *data;
    ptrdiff_t n_rows, n_features, row_stride, feature_stride;
    const double *offset;
    ptrdiff_t offset_stride;
} sf_rows;

/* X (n, p) in CSR: the entries indptr[i]..indptr[i + 1] of data and indices are those of row i, in any order, and a
 * column may occur more than once.  Each of the two integer arrays is int32_t or, where wide, int64_t. */
typedef struct {
    const void *data, *indices, *indptr;
    int wide_indices, wide_indptr;
    ptrdiff_t n_rows, n_features;
    const double *offset;
    ptrdiff_t offset_stride;
} sf_csr;

/* What the rows should predict: labels (n,) in 0..K-1, or, where labels is NULL, probabilities (n, K) of the storage
 * type of X, element (i, k) at proba[i * row_stride + k * class_stride].  weight (n,), or NULL for all ones. */
typedef struct {
    const int64_t *labels;
    const void *proba;
    ptrdiff_t row_stride, class_stride;
    const double *weight;
} sf_targets;

/* Coefficients in the arithmetic type, aligned, in one of two layouts; sf_coef_index says where coef[k, j] lies.
 * Few classes: coef (M, stride), zero beyond column p; intercept (M,).
 * Many classes: coef [panel][p][SF_PANEL] over all K classes, zero for a reference class and in the padding;
 * intercept [panel][SF_PANEL], zero for a reference class, -inf in the padding.
 * For rows in CSR: coef [p][stride], intercept [stride], the columns of sf_csr_columns and the stride of sf_csr_stride,
 * zero for a reference class and in the padding. */
typedef struct {
    const void *coef, *intercept;
    ptrdiff_t n_features, n_outputs, n_classes;
} sf_model;

/* Sums over rows, in the model's layout: of weighted losses, residual^T X, residual^T 1. */
typedef struct {
    double loss;
    double *coef, *intercept;
} sf_gradient;

/* A strided view of logits, x[i * row_stride + k * class_stride], for the array functions. */
typedef struct {
    const void *data;
    ptrdiff_t row_stride, class_stride;
} sf_logits;

typedef enum { SF_SOFTMAX = 0, SF_LOG_SOFTMAX = 1, SF_LOGSUMEXP = 2, SF_IDENTITY = 3 } sf_map;
typedef enum { SF_F32 = 0, SF_F64 = 1 } sf_real;

#define SF_OK (-1)        /* otherwise the index of the first row whose label is not in 0..K-1 */

/* Functions of one arithmetic type over one storage type. */
typedef struct {
    /* Adds the rows [begin, end), at most block_rows of them, to out.  Returns SF_OK or the offending row. */
    ptrdiff_t (*loss_gradient)(sf_gradient *out, const sf_rows *x, const sf_targets *targets, const sf_model *model,
                               ptrdiff_t begin, ptrdiff_t end, void *scratch);
    /* out (n, M) of the arithmetic type with SF_IDENTITY, else (n, K), row stride out_stride: the map of the logits.
     * Returns whether all logits were finite, of many classes the first of each row: a row of X with NaN or infinity in
     * it is never missed. */
    int (*predict)(void *out, ptrdiff_t out_stride, sf_map map, const sf_rows *x, const sf_model *model,
                    ptrdiff_t begin, ptrdiff_t end, void *scratch);
    /* Adds the product of the Hessian at the model with the direction's coefficients to out; weight (n,) or NULL. */
    void (*hessian_vector)(sf_gradient *out, const sf_rows *x, const double *weight, const sf_model *model,
                           const sf_model *direction, ptrdiff_t begin, ptrdiff_t end, void *scratch);
} sf_row_kernels;

/* The same for rows in CSR with one type of indices.  Their gradient is made in two steps, so that there is one of it
 * whatever the number of threads: residuals of some rows, by rows, and then their product with X, by features.
 * Residuals are of the arithmetic type, [rows][stride], with the stride of float64, which sums and gradient have. */
typedef struct {
    /* residual of the rows [begin, end), at most sf_csr_block_rows, zero in the padding, sums [stride] over them and
     * *loss are written.  Returns SF_OK or the offending row. */
    ptrdiff_t (*residual)(void *residual, double *sums, double *loss, const sf_csr *x, const sf_targets *targets,
                          const sf_model *model, ptrdiff_t begin, ptrdiff_t end, void *scratch);
    /* The same for the product of the Hessian at the model with the direction's coefficients; weight (n,) or NULL. */
    void (*curve)(void *residual, double *sums, const sf_csr *x, const double *weight, const sf_model *model,
                  const sf_model *direction, ptrdiff_t begin, ptrdiff_t end, void *scratch);
    /* As of sf_row_kernels; the rows at most sf_csr_block_rows. */
    int (*predict)(void *out, ptrdiff_t out_stride, sf_map map, const sf_csr *x, const sf_model *model, ptrdiff_t begin,
                   ptrdiff_t end, void *scratch);
    /* gradient [p][stride] += X^T residual of the rows [begin, end), in their order, of the features [first, last). */
    void (*add)(double *gradient, const void *residual, ptrdiff_t n_columns, const sf_csr *x, ptrdiff_t begin,
                ptrdiff_t end, ptrdiff_t first, ptrdiff_t last);
    /* gradient = X^T residual of all rows, of the features [first, last); columns: X^T in CSR, of the same type of
     * indices as X. */
    void (*add_columns)(double *gradient, const void *residual, ptrdiff_t n_columns, const sf_csr *columns,
                        ptrdiff_t first, ptrdiff_t last);
} sf_csr_kernels;

/* Adds sum_i w_i x_i x_i^T over the rows [begin, end), at most SF_GRAM_ROWS, for n_weights vectors of weights to out
 * [n_weights][p][sf_coef_stride(p)]: of the columns [first, last), each a multiple of SF_GRAM_COLUMNS or p, the upper
 * triangle at least.  Computed in float64; scratch of sf_gram_scratch_bytes. */
typedef void (*sf_gram)(double *out, ptrdiff_t n_weights, const double *weight, ptrdiff_t weight_stride,
                        const sf_rows *x, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t first, ptrdiff_t last,
                        void *scratch);

/* Functions of one type of logits. */
typedef struct {
    /* out as logits are, same shape; with SF_LOGSUMEXP one value a row.  streams: out is larger than the caches, and
     * may be written past them. */
    void (*map)(void *out, ptrdiff_t out_row_stride, ptrdiff_t out_class_stride, sf_map map, const sf_logits *x,
                ptrdiff_t n_classes, ptrdiff_t begin, ptrdiff_t end, int streams, void *scratch);
    /* losses (n,) weighted; gradient (n, K) C order, or NULL.  Returns SF_OK or the offending row. */
    ptrdiff_t (*cross_entropy)(double *losses, void *gradient, const sf_logits *x, const sf_targets *targets,
                               ptrdiff_t n_classes, ptrdiff_t begin, ptrdiff_t end, int streams, void *scratch);
    void (*exp)(void *out, const void *x, ptrdiff_t n);
    void (*log)(void *out, const void *x, ptrdiff_t n);
} sf_array_kernels;

/* All kernels of one instruction set. */
typedef struct {
    const char *name;
    sf_row_kernels rows[2][2]; /* [storage][arithmetic]; float32 arithmetic over float64 storage is not offered */
    sf_csr_kernels csr[2][2][2]; /* [storage][arithmetic][wide_indices] */
    sf_gram gram[2]; /* [storage] */
    sf_array_kernels arrays[2];
} sf_kernels;

/* The tables that this build has and this processor can run, best first, ended by NULL. */
const sf_kernels *const *sf_kernels_available(void);

/* From here on classes fill the lanes: the widest vector is twice as long. */
static inline int sf_many_classes(ptrdiff_t n_classes) { return n_classes >= SF_PANEL; }

static inline ptrdiff_t sf_panels(ptrdiff_t n_classes) { return (n_classes + SF_PANEL - 1) / SF_PANEL; }

/* Elements between coefficient rows; one further group of lanes keeps rows of 2^n features from sharing cache sets. */
static inline ptrdiff_t sf_coef_stride(ptrdiff_t n_features) {
    return (n_features + SF_MAX_LANES) / SF_MAX_LANES * SF_MAX_LANES + SF_MAX_LANES;
}

static inline ptrdiff_t sf_coef_size(const sf_model *model) {
    return sf_many_classes(model->n_classes) ? sf_panels(model->n_classes) * model->n_features * SF_PANEL
                                             : model->n_outputs * sf_coef_stride(model->n_features);
}

static inline ptrdiff_t sf_intercept_size(const sf_model *model) {
    return sf_many_classes(model->n_classes) ? sf_panels(model->n_classes) * SF_PANEL : model->n_outputs;
}

static inline ptrdiff_t sf_intercept_index(const sf_model *model, ptrdiff_t k) {
    return sf_many_classes(model->n_classes) ? k + model->n_classes - model->n_outputs : k;
}

static inline ptrdiff_t sf_coef_index(const sf_model *model, ptrdiff_t k, ptrdiff_t j) {
    if (!sf_many_classes(model->n_classes))
        return k * sf_coef_stride(model->n_features) + j;
    k += model->n_classes - model->n_outputs;
    return (k / SF_PANEL * model->n_features + j) * SF_PANEL + k % SF_PANEL;
}

/* Rows a block: the tile of logits and the rows of X should stay in the second-level cache between the forward and
 * the backward product, and the sums of a block in working precision should be short.  A function of the problem only,
 * so that the partition, and with it every bit of the result, does not depend on the number of threads. */
static inline ptrdiff_t sf_block_rows(ptrdiff_t n_features, ptrdiff_t n_classes, size_t itemsize) {
    ptrdiff_t row_bytes = (n_features + n_classes) * (ptrdiff_t)itemsize;
    ptrdiff_t rows = (512 * 1024 / row_bytes) / 32 * 32;
    /* With many classes the sums of a block outweigh its rows in traffic: fewer blocks, though the tile overflows. */
    if (n_features && sf_many_classes(n_classes))
        return 256;
    return rows < 32 ? 32 : rows > 256 ? 256 : rows;
}

/* Bytes of scratch for blocks of n_rows of X: two tiles (logits, probability targets), four values a row, and some rows
 * transposed. */
static inline size_t sf_scratch_bytes(ptrdiff_t n_rows, ptrdiff_t n_classes) {
    size_t padded = (size_t)(n_rows + SF_MAX_LANES - 1) / SF_MAX_LANES * SF_MAX_LANES;
    return (2 * (size_t)sf_panels(n_classes) * SF_PANEL + 4) * padded * sizeof(double) + SF_PACK_BYTES;
}

/* Columns of X in the panels of a Gram matrix. */
static inline ptrdiff_t sf_gram_columns(ptrdiff_t n_features) {
    return (n_features + SF_GRAM_COLUMNS - 1) / SF_GRAM_COLUMNS * SF_GRAM_COLUMNS;
}

static inline size_t sf_gram_scratch_bytes(ptrdiff_t n_features) {
    return 2 * (size_t)sf_gram_columns(n_features) * SF_GRAM_ROWS * sizeof(double);
}

static inline ptrdiff_t sf_entry(const sf_csr *x, ptrdiff_t i) {
    return x->wide_indptr ? (ptrdiff_t)((const int64_t *)x->indptr)[i] : ((const int32_t *)x->indptr)[i];
}

/* Columns of coefficients, residuals and gradients for rows in CSR: a reference class has one among many classes. */
static inline ptrdiff_t sf_csr_columns(ptrdiff_t n_outputs, ptrdiff_t n_classes) {
    return sf_many_classes(n_classes) ? n_classes : n_outputs;
}

/* Elements from one feature, or row, to the next: lines of the cache, but for few columns, which would take up to 16
 * times the memory then. */
static inline ptrdiff_t sf_csr_stride(ptrdiff_t n_columns, size_t itemsize) {
    ptrdiff_t line = SF_ALIGNMENT / (ptrdiff_t)itemsize;
    return n_columns <= 2 ? n_columns : n_columns <= 4 ? 4 : (n_columns + line - 1) / line * line;
}

/* Rows a block: enough to fill the lanes of a tile many times. */
static inline ptrdiff_t sf_csr_block_rows(ptrdiff_t n_classes) { return sf_many_classes(n_classes) ? 32 : 128; }

/* Bytes of scratch for blocks of rows in CSR: tiles, or two rows of logits and one of targets. */
static inline size_t sf_csr_scratch_bytes(ptrdiff_t n_classes) {
    return sf_many_classes(n_classes) ? 3 * (size_t)sf_panels(n_classes) * SF_PANEL * sizeof(double)
                                      : sf_scratch_bytes(sf_csr_block_rows(n_classes), n_classes);
}

/* Whether the array functions take rows one by one, classes across the lanes: many classes, contiguous. */
static inline int sf_row_by_row(ptrdiff_t n_classes, ptrdiff_t class_stride) {
    return sf_many_classes(n_classes) && class_stride == 1;
}

/* Bytes of scratch of the array functions for blocks of n_rows: row by row, two rows and a panel. */
static inline size_t sf_array_scratch_bytes(ptrdiff_t n_rows, ptrdiff_t n_classes, ptrdiff_t class_stride) {
    return sf_row_by_row(n_classes, class_stride) ? (2 * (size_t)sf_panels(n_classes) + 1) * SF_PANEL * sizeof(double)
                                                  : sf_scratch_bytes(n_rows, n_classes);
}

#endif
