/*
%2 = sub(1.0, hyper.betas[0])  # host
%4 = lt(%2, 0.5)  # host
%8 = mul(grad, grad)  # element
%9 = sum(%8) over all  # tensor, pass 1
%10 = sqrt(%9)  # tensor, pass 1
%12 = add(%10, 1e-06)  # tensor, pass 1
%13 = div(hyper.clip_norm_max_norm, %12)  # tensor, pass 1
%14 = minimum(%13, 1.0)  # tensor, pass 1
%15 = mul(grad, %14)  # element, pass 1
%16 = select(%4, slot.exp_avg, %15)  # element, pass 1
%17 = sub(%15, slot.exp_avg)  # element, pass 1
%18 = sub(%2, 1.0)  # host
%19 = select(%4, %2, %18)  # host
%20 = mul(%17, %19)  # element, pass 1
%21 = add(%16, %20)  # element, pass 1
%23 = sub(1.0, hyper.betas[1])  # host
%24 = lt(%23, 0.5)  # host
%26 = mul(%15, %15)  # element, pass 1
%27 = select(%24, slot.exp_avg_sq, %26)  # element, pass 1
%28 = sub(%26, slot.exp_avg_sq)  # element, pass 1
%29 = sub(%23, 1.0)  # host
%30 = select(%24, %23, %29)  # host
%31 = mul(%28, %30)  # element, pass 1
%32 = add(%27, %31)  # element, pass 1
%36 = mul(hyper.lr, hyper.weight_decay)  # host
%37 = sub(1.0, %36)  # host
%38 = mul(param, %37)  # element
%40 = pow(hyper.betas[0], t)  # host
%41 = sub(1.0, %40)  # host
%42 = div(1.0, %41)  # host
%43 = mul(%42, hyper.lr)  # host
%44 = mul(%21, %43)  # element, pass 1
%45 = pow(hyper.betas[1], t)  # host
%46 = sub(1.0, %45)  # host
%47 = div(1.0, %46)  # host
%48 = mul(%32, %47)  # element, pass 1
%49 = sqrt(%48)  # element, pass 1
%51 = add(%49, hyper.eps)  # element, pass 1
%52 = div(%44, %51)  # element, pass 1
%53 = sub(%38, %52)  # element, pass 1
exp_avg <- %21
exp_avg_sq <- %32
param <- %53
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

/* The neighbours' binary tree over partial results, as a chain of carries. */
static inline double sum_tree_join(double a, double b) { return a + b; }
static inline int sum_tree_push(double *tree, int top, i64 i, double x) { /* the i-th one */
  for (i64 k = i; k & 1; k >>= 1) x = sum_tree_join(tree[--top], x);
  tree[top] = x;
  return top + 1;
}
static inline double sum_tree_end(const double *tree, int top) {
  if (!top) return 0.0;
  double x = tree[--top];
  while (top) x = sum_tree_join(tree[--top], x);
  return x;
}
static inline double sum_tree_of(const double *x, i64 n) {
  double tree[64];
  int top = 0;
  for (i64 i = 0; i < n; i++) top = sum_tree_push(tree, top, i, x[i]);
  return sum_tree_end(tree, top);
}

static void body_0_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
  (void)s; (void)out; (void)n;
  const float *restrict w_1 = (const float *)T->streams[1][t];
  double a0[LANES];
  for (int l = 0; l < LANES; l++) a0[l] = 0.0;
  for (i64 at = begin; at < end; at += BLOCK) {
    const int m = end - at < BLOCK ? (int)(end - at) : BLOCK;
    real v0[BLOCK];
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x1 = w_1[at + i];
      const real n0 = (x1 * x1);
      v0[i] = n0;
    }
    const int whole = (m + LANES - 1) / LANES * LANES;
    for (int i = m; i < whole; i++) v0[i] = 0.0;
    for (int i = 0; i < whole; i += LANES)
      for (int l = 0; l < LANES; l++) {
        const double v = v0[i + l];
        a0[l] = a0[l] + v;
      }
    if ((at + BLOCK - begin) % SUM_BLOCK == 0 || at + BLOCK >= end) {
      for (int h = LANES / 2; h; h /= 2)
        for (int l = 0; l < h; l++) a0[l] = sum_tree_join(a0[l], a0[l + h]);
      out[0 * T->blocks] = a0[0];
      for (int l = 0; l < LANES; l++) a0[l] = 0.0;
      out++;
    }
  }
}
static inline void part_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, double *out) {
  const real *s = T->scalars + 0 * T->scalar_row[t];
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
  for (i64 t = 0; t < T->tensors; t++) {
    const double *part = T->partials + 0 * T->blocks + T->block_base[t];
    const i64 blocks = (T->size[t] + SUM_BLOCK - 1) / SUM_BLOCK;
    T->sums[0 * T->tensors + t] = sum_tree_of(part, blocks);
  }
}

static void body_1_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
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
  const real s8 = s[8];
  {
    const i64 at = begin;
    const int m = (int)(end - begin);
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x2 = w_2[at + i];
      const real x1 = w_1[at + i];
      const real x3 = w_3[at + i];
      const real x0 = w_0[at + i];
      const real n0 = (x1 * s0);
      const real n1 = ((s1 != 0) ? x2 : n0);
      const real n2 = (n0 - x2);
      const real n3 = (n2 * s2);
      const real n4 = (n1 + n3);
      const real n5 = (n0 * n0);
      const real n6 = ((s3 != 0) ? x3 : n5);
      const real n7 = (n5 - x3);
      const real n8 = (n7 * s4);
      const real n9 = (n6 + n8);
      const real n10 = (x0 * s5);
      const real n11 = (n4 * s6);
      const real n12 = (n9 * s7);
      const real n13 = R(sqrt)(n12);
      const real n14 = (n13 + s8);
      const real n15 = (n11 / n14);
      const real n16 = (n10 - n15);
      w_2[at + i] = n4;
      w_3[at + i] = n9;
      w_0[at + i] = n16;
    }
  }
}
static inline void part_1(const Table *T, i64 t, i64 n, i64 begin, i64 end, double *out) {
  const real *s = T->scalars + 9 * T->scalar_row[t];
  (void)s; (void)out; (void)n;
  body_1_0(T, t, n, begin, end, s, out);
}
void pass_1(const Table *T) {
#pragma omp parallel for schedule(dynamic, (int)T->grain) num_threads((int)T->threads) if(T->threads > 1)
  for (i64 u = 0; u < T->units; u++) {
    const i64 t = T->unit_tensor[u], begin = T->unit_begin[u];
    double *out = T->partials + T->block_base[t] + begin / SUM_BLOCK;
    part_1(T, t, 0, begin, T->unit_end[u], out);
  }
}
