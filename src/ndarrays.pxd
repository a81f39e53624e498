# cython: language_level=3
"""What the kernels ask of NumPy's arrays before they touch their memory."""

cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t

from native cimport SF_F32, SF_F64


cdef inline int real_of(cnp.ndarray array) except -1:
    """SF_F32 or SF_F64; only native, aligned arrays of these, in steps of whole elements, may reach the kernels."""
    cdef int axis, itemsize = cnp.PyArray_ITEMSIZE(array)
    cdef bint fits = cnp.PyArray_ISBEHAVED_RO(array) and cnp.PyArray_ISFLOAT(array) and itemsize in (4, 8)
    if fits:
        for axis in range(cnp.PyArray_NDIM(array)):
            fits &= cnp.PyArray_DIM(array, axis) < 2 or cnp.PyArray_STRIDE(array, axis) % itemsize == 0
    if not fits:
        raise ValueError("kernels take aligned float32 or float64 in steps of whole elements, got "
                         + describe(array))
    return SF_F32 if itemsize == 4 else SF_F64


cdef inline object describe(object array):
    """For messages."""
    return f"{array.dtype} of shape {array.shape} with strides {array.strides}"


cdef inline ptrdiff_t stride_of(cnp.ndarray array, int axis) noexcept:
    """In elements."""
    return cnp.PyArray_STRIDE(array, axis) // cnp.PyArray_ITEMSIZE(array)


cdef inline bint is_vector_of(cnp.ndarray array, bint of_kind) noexcept:
    """Whether 8-byte elements of the right kind lie one after the other along one axis."""
    return of_kind and cnp.PyArray_NDIM(array) == 1 and cnp.PyArray_ITEMSIZE(array) == 8 \
        and cnp.PyArray_ISCARRAY_RO(array)


cdef inline cnp.ndarray vector(cnp.npy_intp n, double value):
    """float64 (n,), every element the value."""
    cdef cnp.ndarray result = cnp.PyArray_SimpleNew(1, &n, cnp.NPY_DOUBLE)
    cdef double *data = <double *>cnp.PyArray_DATA(result)
    cdef ptrdiff_t i
    for i in range(n):
        data[i] = value
    return result


cdef inline bint same_or_apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether two contiguous arrays of one size begin at the same address or do not overlap."""
    cdef uintptr_t first = <uintptr_t>cnp.PyArray_DATA(a), second = <uintptr_t>cnp.PyArray_DATA(b)
    cdef uintptr_t size = cnp.PyArray_NBYTES(a)
    return first == second or first + size <= second or second + size <= first


cdef inline const double *offset_data(cnp.ndarray offset, ptrdiff_t n_rows) except NULL:
    """Of an offset (n, K), float64 in C order: what the logits of the rows begin from."""
    if not cnp.PyArray_ISCARRAY_RO(offset) or cnp.PyArray_TYPE(offset) != cnp.NPY_DOUBLE \
            or cnp.PyArray_NDIM(offset) != 2 or cnp.PyArray_DIM(offset, 0) != n_rows:
        raise ValueError(f"offset, {describe(offset)}, does not belong to X of {n_rows} rows")
    return <const double *>cnp.PyArray_DATA(offset)


cdef inline int check_columns(cnp.ndarray offset, ptrdiff_t n_features, ptrdiff_t n_columns,
                              ptrdiff_t n_classes) except -1:
    """That rows of n_features, with their offset or None, belong to n_columns of coefficients for n_classes."""
    if n_columns != n_features:
        raise ValueError(f"coef has {n_columns} columns for {n_features} features")
    if offset is not None and cnp.PyArray_DIM(offset, 1) != n_classes:
        raise ValueError(f"offset has {cnp.PyArray_DIM(offset, 1)} columns for {n_classes} classes")
    return 0
