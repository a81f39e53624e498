/* kernels.c: one instruction set's table of kernels.  Compiled once per instruction set with -DSF_ISA=name; the table
 * sf_kernels_<name> is the only symbol that leaves the object, so code of one set can't be linked into another.
 */
#include "port.h"
#include "softfast.h"

#include <math.h>
#include <string.h>

/* The micro-kernels are compiled for each number of output rows, so that accumulators live in registers. */
#define SF_CASES_3(m, call)                                                                                            \
    switch (m) {                                                                                                       \
    case 1: call(1) break;                                                                                             \
    case 2: call(2) break;                                                                                             \
    case 3: call(3) break;                                                                                             \
    }
#define SF_CASES_6(m, call)                                                                                            \
    switch (m) {                                                                                                       \
    case 1: call(1) break;                                                                                             \
    case 2: call(2) break;                                                                                             \
    case 3: call(3) break;                                                                                             \
    case 4: call(4) break;                                                                                             \
    case 5: call(5) break;                                                                                             \
    case 6: call(6) break;                                                                                             \
    }
#define SF_CASES_14(m, call)                                                                                           \
    switch (m) {                                                                                                       \
    case 7: call(7) break;                                                                                             \
    case 8: call(8) break;                                                                                             \
    case 9: call(9) break;                                                                                             \
    case 10: call(10) break;                                                                                           \
    case 11: call(11) break;                                                                                           \
    case 12: call(12) break;                                                                                           \
    case 13: call(13) break;                                                                                           \
    case 14: call(14) break;                                                                                           \
    default: SF_CASES_6(m, call)                                                                                       \
    }

#if SF_MANY_REGISTERS
#define SF_MOST_VECTORS 14
#define SF_FOR_VECTORS(m, call) SF_CASES_14(m, call)
#else
#define SF_MOST_VECTORS 6
#define SF_FOR_VECTORS(m, call) SF_CASES_6(m, call)
#endif

static inline ptrdiff_t sf_ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }
static inline ptrdiff_t sf_padded(ptrdiff_t n_rows) { return sf_ceil_div(n_rows, SF_MAX_LANES) * SF_MAX_LANES; }

/* n classes in the fewest blocks of at most `limit`, as even as can be: the first n_larger have size + 1. */
typedef struct {
    ptrdiff_t n_blocks, n_larger;
    int size;
} sf_split;

static inline sf_split sf_even_split(ptrdiff_t n, int limit) {
    ptrdiff_t n_blocks = sf_ceil_div(n, limit);
    sf_split split = {n_blocks, n % n_blocks, (int)(n / n_blocks)};
    return split;
}

#define REAL float
#define INT int32_t
#define UINT uint32_t
#define REAL_BITS 32
#define N(name) SF_PASTE(name, f32)
#include "vec.h"
#include "vmath.h"
#include "pack.tmpl.h"
#include "tile.tmpl.h"
#include "panel.tmpl.h"

#define STORE float
#define STORE_IS_REAL 1
#define V(name) SF_PASTE(name, f32_in_f32)
#define S(name) SF_PASTE(name, f32)
#include "panel_rows.tmpl.h"
#include "rows.tmpl.h"
#include "curvature.tmpl.h"
#define INDEX int32_t
#define W(name) SF_PASTE(name, f32_in_f32_at_i32)
#include "csr.tmpl.h"
#undef INDEX
#undef W
#define INDEX int64_t
#define W(name) SF_PASTE(name, f32_in_f32_at_i64)
#include "csr.tmpl.h"
#undef INDEX
#undef W
#undef STORE
#undef STORE_IS_REAL
#undef V
#undef S
#undef REAL
#undef INT
#undef UINT
#undef REAL_BITS
#undef N

#define REAL double
#define INT int64_t
#define UINT uint64_t
#define REAL_BITS 64
#define N(name) SF_PASTE(name, f64)
#include "vec.h"
#include "vmath.h"
#include "pack.tmpl.h"
#include "tile.tmpl.h"
#include "panel.tmpl.h"

#define STORE double
#define STORE_IS_REAL 1
#define V(name) SF_PASTE(name, f64_in_f64)
#define S(name) SF_PASTE(name, f64)
#include "panel_rows.tmpl.h"
#include "rows.tmpl.h"
#include "curvature.tmpl.h"
#include "gram.tmpl.h"
#define INDEX int32_t
#define W(name) SF_PASTE(name, f64_in_f64_at_i32)
#include "csr.tmpl.h"
#undef INDEX
#undef W
#define INDEX int64_t
#define W(name) SF_PASTE(name, f64_in_f64_at_i64)
#include "csr.tmpl.h"
#undef INDEX
#undef W
#undef STORE
#undef STORE_IS_REAL
#undef V
#undef S

#define STORE float
#define STORE_IS_REAL 0
#define V(name) SF_PASTE(name, f32_in_f64)
#define S(name) SF_PASTE(name, f32)
#include "panel_rows.tmpl.h"
#include "rows.tmpl.h"
#include "curvature.tmpl.h"
#include "gram.tmpl.h"
#define INDEX int32_t
#define W(name) SF_PASTE(name, f32_in_f64_at_i32)
#include "csr.tmpl.h"
#undef INDEX
#undef W
#define INDEX int64_t
#define W(name) SF_PASTE(name, f32_in_f64_at_i64)
#include "csr.tmpl.h"
#undef INDEX
#undef W

/* Residuals of float32 arithmetic are added up in float64, too. */
#define RUN float
#define LOAD_RUN(p) V(load)(p)
#define INDEX int32_t
#define W(name) SF_PASTE(name, f32_in_f64_of_f32_at_i32)
#include "runs.tmpl.h"
#include "csr_backward.tmpl.h"
#undef INDEX
#undef W
#define INDEX int64_t
#define W(name) SF_PASTE(name, f32_in_f64_of_f32_at_i64)
#include "runs.tmpl.h"
#include "csr_backward.tmpl.h"

#define SF_ROW_KERNELS(pair) {loss_gradient_##pair, predict_##pair, hessian_vector_##pair}
#define SF_CSR_KERNELS(pair, sums, index)                                                                              \
    {csr_residual_##pair##_at_##index, csr_curve_##pair##_at_##index, csr_predict_##pair##_at_##index,                 \
     csr_add_##sums##_at_##index, csr_add_columns_##sums##_at_##index}
#define SF_CSR_BOTH(pair, sums) {SF_CSR_KERNELS(pair, sums, i32), SF_CSR_KERNELS(pair, sums, i64)}

extern const sf_kernels SF_PASTE(sf_kernels, SF_ISA);

const sf_kernels SF_PASTE(sf_kernels, SF_ISA) = {
    SF_STRING(SF_ISA),
    {{SF_ROW_KERNELS(f32_in_f32), SF_ROW_KERNELS(f32_in_f64)}, {{NULL, NULL, NULL}, SF_ROW_KERNELS(f64_in_f64)}},
    {{SF_CSR_BOTH(f32_in_f32, f32_in_f64_of_f32), SF_CSR_BOTH(f32_in_f64, f32_in_f64)},
     {{{NULL, NULL, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}}, SF_CSR_BOTH(f64_in_f64, f64_in_f64)}},
    {gram_f32_in_f64, gram_f64_in_f64},
    {{map_f32_in_f32, cross_entropy_f32_in_f32, exp_array_f32, log_array_f32},
     {map_f64_in_f64, cross_entropy_f64_in_f64, exp_array_f64, log_array_f64}},
};
