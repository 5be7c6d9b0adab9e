/*
%2 = mod(t, hyper.lookahead_k)  # host
%4 = eq(%2, 0.0)  # host
%7 = lt(hyper.lookahead_alpha, 0.5)  # host
%12 = sub(1.0, hyper.betas[0])  # host
%13 = lt(%12, 0.5)  # host
%16 = select(%13, slot.exp_avg, grad)  # element
%17 = sub(grad, slot.exp_avg)  # element
%18 = sub(%12, 1.0)  # host
%19 = select(%13, %12, %18)  # host
%20 = mul(%17, %19)  # element
%21 = add(%16, %20)  # element
%22 = sign(%21)  # element
%24 = mul(%22, hyper.lr)  # element
%25 = sub(param, %24)  # element
%26 = select(%7, slot.lookahead_slow, %25)  # element
%27 = sub(%25, slot.lookahead_slow)  # element
%28 = sub(hyper.lookahead_alpha, 1.0)  # host
%29 = select(%7, hyper.lookahead_alpha, %28)  # host
%30 = mul(%27, %29)  # element
%31 = add(%26, %30)  # element
%32 = where(%4, %31, slot.lookahead_slow)  # element
%34 = sub(1.0, hyper.betas[1])  # host
%35 = lt(%34, 0.5)  # host
%36 = select(%35, slot.exp_avg, grad)  # element
%37 = sub(%34, 1.0)  # host
%38 = select(%35, %34, %37)  # host
%39 = mul(%17, %38)  # element
%40 = add(%36, %39)  # element
%41 = where(%4, %31, %25)  # element
lookahead_slow <- %32
exp_avg <- %40
param <- %41
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
  float *restrict w_3 = (float *)T->streams[3][t];
  float *restrict w_0 = (float *)T->streams[0][t];
  float *restrict w_2 = (float *)T->streams[2][t];
  const float *restrict w_1 = (const float *)T->streams[1][t];
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
      const real x3 = w_3[at + i];
      const real x0 = w_0[at + i];
      const real x2 = w_2[at + i];
      const real x1 = w_1[at + i];
      const real n0 = ((s1 != 0) ? x2 : x1);
      const real n1 = (x1 - x2);
      const real n2 = (n1 * s2);
      const real n3 = (n0 + n2);
      const real n4 = (real)((n3 > 0) - (n3 < 0));
      const real n5 = (n4 * s3);
      const real n6 = (x0 - n5);
      const real n7 = ((s4 != 0) ? x3 : n6);
      const real n8 = (n6 - x3);
      const real n9 = (n8 * s5);
      const real n10 = (n7 + n9);
      const real n11 = ((s6 != 0) ? x2 : x1);
      const real n12 = (n1 * s7);
      const real n13 = (n11 + n12);
      w_3[at + i] = n10;
      w_2[at + i] = n13;
      w_0[at + i] = n10;
    }
  }
}
static void body_0_1(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
  (void)s; (void)out; (void)n;
  float *restrict w_2 = (float *)T->streams[2][t];
  const float *restrict w_1 = (const float *)T->streams[1][t];
  float *restrict w_0 = (float *)T->streams[0][t];
  const real s1 = s[1];
  const real s2 = s[2];
  const real s3 = s[3];
  const real s6 = s[6];
  const real s7 = s[7];
  {
    const i64 at = begin;
    const int m = (int)(end - begin);
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x2 = w_2[at + i];
      const real x1 = w_1[at + i];
      const real x0 = w_0[at + i];
      const real n0 = ((s6 != 0) ? x2 : x1);
      const real n1 = (x1 - x2);
      const real n2 = (n1 * s7);
      const real n3 = (n0 + n2);
      const real n4 = ((s1 != 0) ? x2 : x1);
      const real n5 = (n1 * s2);
      const real n6 = (n4 + n5);
      const real n7 = (real)((n6 > 0) - (n6 < 0));
      const real n8 = (n7 * s3);
      const real n9 = (x0 - n8);
      w_2[at + i] = n3;
      w_0[at + i] = n9;
    }
  }
}
static inline void part_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, double *out) {
  const real *s = T->scalars + 8 * T->scalar_row[t];
  (void)s; (void)out; (void)n;
  if (s[0] != 0) {
    body_0_0(T, t, n, begin, end, s, out);
  } else {
    body_0_1(T, t, n, begin, end, s, out);
  }
}
void pass_0(const Table *T) {
#pragma omp parallel for schedule(dynamic, (int)T->grain) num_threads((int)T->threads) if(T->threads > 1)
  for (i64 u = 0; u < T->units; u++) {
    const i64 t = T->unit_tensor[u], begin = T->unit_begin[u];
    double *out = T->partials + T->block_base[t] + begin / SUM_BLOCK;
    part_0(T, t, 0, begin, T->unit_end[u], out);
  }
}
