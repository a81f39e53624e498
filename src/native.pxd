# cython: language_level=3
"""softfast.h for Cython: what each name means is said there."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t

cdef extern from "softfast.h" nogil:
    enum: SF_ALIGNMENT
    enum: SF_GRAM_COLUMNS
    enum: SF_GRAM_ROWS
    enum: SF_OK
    ctypedef enum sf_map:
        SF_SOFTMAX
        SF_LOG_SOFTMAX
        SF_LOGSUMEXP
        SF_IDENTITY
    ctypedef enum sf_real:
        SF_F32
        SF_F64
    ctypedef struct sf_rows:
        const void *data
        ptrdiff_t n_rows, n_features, row_stride, feature_stride
        const double *offset
        ptrdiff_t offset_stride
    ctypedef struct sf_csr:
        const void *data
        const void *indices
        const void *indptr
        int wide_indices, wide_indptr
        ptrdiff_t n_rows, n_features
        const double *offset
        ptrdiff_t offset_stride
    ctypedef struct sf_targets:
        const int64_t *labels
        const void *proba
        ptrdiff_t row_stride, class_stride
        const double *weight
    ctypedef struct sf_model:
        const void *coef
        const void *intercept
        ptrdiff_t n_features, n_outputs, n_classes
    ctypedef struct sf_gradient:
        double loss
        double *coef
        double *intercept
    ctypedef struct sf_logits:
        const void *data
        ptrdiff_t row_stride, class_stride
    ctypedef struct sf_row_kernels:
        ptrdiff_t (*loss_gradient)(sf_gradient *, const sf_rows *, const sf_targets *, const sf_model *, ptrdiff_t,
                                   ptrdiff_t, void *) noexcept nogil
        int (*predict)(void *, ptrdiff_t, sf_map, const sf_rows *, const sf_model *, ptrdiff_t, ptrdiff_t,
                       void *) noexcept nogil
        void (*hessian_vector)(sf_gradient *, const sf_rows *, const double *, const sf_model *, const sf_model *,
                               ptrdiff_t, ptrdiff_t, void *) noexcept nogil
    ctypedef struct sf_csr_kernels:
        ptrdiff_t (*residual)(void *, double *, double *, const sf_csr *, const sf_targets *, const sf_model *,
                              ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        void (*curve)(void *, double *, const sf_csr *, const double *, const sf_model *, const sf_model *,
                      ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        int (*predict)(void *, ptrdiff_t, sf_map, const sf_csr *, const sf_model *, ptrdiff_t, ptrdiff_t,
                       void *) noexcept nogil
        void (*add)(double *, const void *, ptrdiff_t, const sf_csr *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                    ptrdiff_t) noexcept nogil
        void (*add_columns)(double *, const void *, ptrdiff_t, const sf_csr *, ptrdiff_t, ptrdiff_t) noexcept nogil
    ctypedef void (*sf_gram)(double *, ptrdiff_t, const double *, ptrdiff_t, const sf_rows *, ptrdiff_t, ptrdiff_t,
                             ptrdiff_t, ptrdiff_t, void *) noexcept nogil
    ctypedef struct sf_array_kernels:
        void (*map)(void *, ptrdiff_t, ptrdiff_t, sf_map, const sf_logits *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                    int, void *) noexcept nogil
        ptrdiff_t (*cross_entropy)(double *, void *, const sf_logits *, const sf_targets *, ptrdiff_t, ptrdiff_t,
                                   ptrdiff_t, int, void *) noexcept nogil
        void (*exp)(void *, const void *, ptrdiff_t) noexcept nogil
        void (*log)(void *, const void *, ptrdiff_t) noexcept nogil
    ctypedef struct sf_kernels:
        const char *name
        sf_row_kernels rows[2][2]
        sf_csr_kernels csr[2][2][2]
        sf_gram gram[2]
        sf_array_kernels arrays[2]
    const sf_kernels *const *sf_kernels_available()
    ptrdiff_t sf_block_rows(ptrdiff_t, ptrdiff_t, size_t)
    size_t sf_scratch_bytes(ptrdiff_t, ptrdiff_t)
    size_t sf_array_scratch_bytes(ptrdiff_t, ptrdiff_t, ptrdiff_t)
    bint sf_many_classes(ptrdiff_t)
    ptrdiff_t sf_coef_stride(ptrdiff_t)
    size_t sf_gram_scratch_bytes(ptrdiff_t)
    ptrdiff_t sf_coef_size(const sf_model *)
    ptrdiff_t sf_coef_index(const sf_model *, ptrdiff_t, ptrdiff_t)
    ptrdiff_t sf_intercept_size(const sf_model *)
    ptrdiff_t sf_intercept_index(const sf_model *, ptrdiff_t)
    ptrdiff_t sf_entry(const sf_csr *, ptrdiff_t)
    ptrdiff_t sf_csr_columns(ptrdiff_t, ptrdiff_t)
    ptrdiff_t sf_csr_stride(ptrdiff_t, size_t)
    ptrdiff_t sf_csr_block_rows(ptrdiff_t)
    size_t sf_csr_scratch_bytes(ptrdiff_t)
