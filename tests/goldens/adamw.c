/*
%2 = sub(1.0, hyper.betas[0])  # host
%4 = lt(%2, 0.5)  # host
%7 = select(%4, slot.exp_avg, grad)  # element
%8 = sub(grad, slot.exp_avg)  # element
%9 = sub(%2, 1.0)  # host
%10 = select(%4, %2, %9)  # host
%11 = mul(%8, %10)  # element
%12 = add(%7, %11)  # element
%14 = sub(1.0, hyper.betas[1])  # host
%15 = lt(%14, 0.5)  # host
%17 = mul(grad, grad)  # element
%18 = select(%15, slot.exp_avg_sq, %17)  # element
%19 = sub(%17, slot.exp_avg_sq)  # element
%20 = sub(%14, 1.0)  # host
%21 = select(%15, %14, %20)  # host
%22 = mul(%19, %21)  # element
%23 = add(%18, %22)  # element
%27 = mul(hyper.lr, hyper.weight_decay)  # host
%28 = sub(1.0, %27)  # host
%29 = mul(param, %28)  # element
%31 = pow(hyper.betas[0], t)  # host
%32 = sub(1.0, %31)  # host
%33 = div(1.0, %32)  # host
%34 = mul(%33, hyper.lr)  # host
%35 = mul(%12, %34)  # element
%36 = pow(hyper.betas[1], t)  # host
%37 = sub(1.0, %36)  # host
%38 = div(1.0, %37)  # host
%39 = mul(%23, %38)  # element
%40 = sqrt(%39)  # element
%42 = add(%40, hyper.eps)  # element
%43 = div(%35, %42)  # element
%44 = sub(%29, %43)  # element
exp_avg <- %12
exp_avg_sq <- %23
param <- %44
step <- t
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
  void *const *streams[4];
} Table;

/* A prefetch of any address is harmless: one that holds nothing any more costs a little time. */
void prefetch(const i64 *addresses, i64 count) {
  for (i64 i = 0; i < count; i++) __builtin_prefetch((const void *)addresses[i], 1);
}

static void body_0_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
  (void)s; (void)out; (void)n;
  float *restrict w_2 = (float *)T->streams[2][t];
  const float *restrict w_1 = (const float *)T->streams[1][t];
  float *restrict w_3 = (float *)T->streams[3][t];
  float *restrict w_0 = (float *)T->streams[0][t];
  const real s0 = s[0];
  const real s1 = s[1];
  const real s2 = s[2];
  const real s3 = s[3];
  const real s4 = s[4];
  const real s5 = s[5];
  const real s6 = s[6];
  const real s7 = s[7];
  {
    const i64 at = begin;
    const int m = (int)(end - begin);
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x2 = w_2[at + i];
      const real x1 = w_1[at + i];
      const real x3 = w_3[at + i];
      const real x0 = w_0[at + i];
      const real n0 = ((s0 != 0) ? x2 : x1);
      const real n1 = (x1 - x2);
      const real n2 = (n1 * s1);
      const real n3 = (n0 + n2);
      const real n4 = (x1 * x1);
      const real n5 = ((s2 != 0) ? x3 : n4);
      const real n6 = (n4 - x3);
      const real n7 = (n6 * s3);
      const real n8 = (n5 + n7);
      const real n9 = (x0 * s4);
      const real n10 = (n3 * s5);
      const real n11 = (n8 * s6);
      const real n12 = R(sqrt)(n11);
      const real n13 = (n12 + s7);
      const real n14 = (n10 / n13);
      const real n15 = (n9 - n14);
      w_2[at + i] = n3;
      w_3[at + i] = n8;
      w_0[at + i] = n15;
    }
  }
}
static inline void part_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, double *out) {
  const real *s = T->scalars + 8 * T->scalar_row[t];
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
