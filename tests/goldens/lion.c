/*
%2 = sub(1.0, hyper.betas[1])  # host
%4 = lt(%2, 0.5)  # host
%7 = select(%4, slot.exp_avg, grad)  # element
%8 = sub(grad, slot.exp_avg)  # element
%9 = sub(%2, 1.0)  # host
%10 = select(%4, %2, %9)  # host
%11 = mul(%8, %10)  # element
%12 = add(%7, %11)  # element
%16 = mul(hyper.lr, hyper.weight_decay)  # host
%17 = sub(1.0, %16)  # host
%18 = mul(param, %17)  # element
%20 = sub(1.0, hyper.betas[0])  # host
%21 = lt(%20, 0.5)  # host
%22 = select(%21, slot.exp_avg, grad)  # element
%23 = sub(%20, 1.0)  # host
%24 = select(%21, %20, %23)  # host
%25 = mul(%8, %24)  # element
%26 = add(%22, %25)  # element
%27 = sign(%26)  # element
%28 = mul(%27, hyper.lr)  # element
%29 = sub(%18, %28)  # element
exp_avg <- %12
param <- %29
*/
#include <math.h>
#include <stdint.h>

typedef int64_t i64;
typedef float real;
#define R(name) name##f
enum { BLOCK = 256, SUM_BLOCK = 4096, LANES = 16, COLUMN_BLOCK = 64 };

typedef struct {
  i64 units, threads, grain, tensors;
  const i64 *unit_tensor, *unit_begin, *unit_end; /* elements, or what the pass goes by */
  const i64 *size, *scalar_row, *block_base, *matrices;
  const i64 *row_size, *row_base, *matrix_size, *matrix_base;
  const i64 *line_size, *line_base, *column_size, *column_base;
  const real *scalars, *row_values, *matrix_values, *line_values, *column_values;
  double *partials, *sums;
  i64 blocks, results;
  void *const *streams[3];
} Table;

/* A prefetch of any address is harmless: one that holds nothing any more costs a little time. */
void prefetch(const i64 *addresses, i64 count) {
  for (i64 i = 0; i < count; i++) __builtin_prefetch((const void *)addresses[i], 1);
}

static void body_0_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
  (void)s; (void)out; (void)n;
  float *restrict w_2 = (float *)T->streams[2][t];
  const float *restrict w_1 = (const float *)T->streams[1][t];
  float *restrict w_0 = (float *)T->streams[0][t];
  const real s0 = s[0];
  const real s1 = s[1];
  const real s2 = s[2];
  const real s3 = s[3];
  const real s4 = s[4];
  const real s5 = s[5];
  {
    const i64 at = begin;
    const int m = (int)(end - begin);
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x2 = w_2[at + i];
      const real x1 = w_1[at + i];
      const real x0 = w_0[at + i];
      const real n0 = ((s0 != 0) ? x2 : x1);
      const real n1 = (x1 - x2);
      const real n2 = (n1 * s1);
      const real n3 = (n0 + n2);
      const real n4 = (x0 * s2);
      const real n5 = ((s3 != 0) ? x2 : x1);
      const real n6 = (n1 * s4);
      const real n7 = (n5 + n6);
      const real n8 = (real)((n7 > 0) - (n7 < 0));
      const real n9 = (n8 * s5);
      const real n10 = (n4 - n9);
      w_2[at + i] = n3;
      w_0[at + i] = n10;
    }
  }
}
static inline void part_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, double *out) {
  const real *s = T->scalars + 6 * T->scalar_row[t];
  (void)s; (void)out; (void)n;
  body_0_0(T, t, n, begin, end, s, out);
}
void pass_0(const Table *T) {
#pragma omp parallel for schedule(dynamic, (int)T->grain) num_threads((int)T->threads) if(T->threads > 1)
  for (i64 u = 0; u < T->units; u++) {
    const i64 t = T->unit_tensor[u], begin = T->unit_begin[u];
    double *out = T->partials + T->block_base[t] + begin / SUM_BLOCK;
    part_0(T, t, 0, begin, T->unit_end[u], out);
  }
}
