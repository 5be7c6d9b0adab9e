/*
%2 = mod(t, hyper.lookahead_k)  # host
%4 = eq(%2, 0.0)  # host
%7 = lt(hyper.lookahead_alpha, 0.5)  # host
%13 = sub(1.0, hyper.betas[1])  # host
%14 = div(2.0, %13)  # host
%15 = sub(%14, 1.0)  # host
%16 = mul(2.0, t)  # host
%17 = pow(hyper.betas[1], t)  # host
%18 = mul(%16, %17)  # host
%19 = sub(1.0, %17)  # host
%20 = div(%18, %19)  # host
%21 = sub(%15, %20)  # host
%23 = gt(%21, hyper.n_sma_threshold)  # host
%25 = sub(1.0, hyper.betas[0])  # host
%26 = lt(%25, 0.5)  # host
%29 = sum(grad) over row  # row, pass 1
%31 = div(1.0, count.row)  # tensor
%32 = mul(%29, %31)  # row, pass 1
%33 = sub(grad, %32)  # element, pass 1
%34 = select(%26, slot.exp_avg, %33)  # element, pass 1
%35 = sub(%33, slot.exp_avg)  # element, pass 1
%36 = sub(%25, 1.0)  # host
%37 = select(%26, %25, %36)  # host
%38 = mul(%35, %37)  # element, pass 1
%39 = add(%34, %38)  # element, pass 1
%40 = pow(hyper.betas[0], t)  # host
%41 = sub(1.0, %40)  # host
%42 = div(1.0, %41)  # host
%44 = sub(%21, 4.0)  # host
%45 = sub(%21, 2.0)  # host
%46 = mul(%44, %45)  # host
%47 = mul(%46, %15)  # host
%48 = sub(%15, 4.0)  # host
%49 = sub(%15, 2.0)  # host
%50 = mul(%48, %49)  # host
%51 = mul(%50, %21)  # host
%52 = div(%47, %51)  # host
%53 = mul(%52, %19)  # host
%54 = sqrt(%53)  # host
%55 = mul(%42, %54)  # host
%56 = mul(%39, %55)  # element, pass 1
%57 = lt(%13, 0.5)  # host
%59 = mul(%33, %33)  # element, pass 1
%60 = select(%57, slot.exp_avg_sq, %59)  # element, pass 1
%61 = sub(%59, slot.exp_avg_sq)  # element, pass 1
%62 = sub(%13, 1.0)  # host
%63 = select(%57, %13, %62)  # host
%64 = mul(%61, %63)  # element, pass 1
%65 = add(%60, %64)  # element, pass 1
%66 = sqrt(%65)  # element, pass 1
%68 = add(%66, hyper.eps)  # element, pass 1
%69 = div(%56, %68)  # element, pass 1
%70 = mul(%39, %42)  # element, pass 1
%71 = where(%23, %69, %70)  # element, pass 1
%73 = mul(%71, hyper.lr)  # element, pass 1
%74 = sub(param, %73)  # element, pass 1
%75 = select(%7, slot.lookahead_slow, %74)  # element, pass 1
%76 = sub(%74, slot.lookahead_slow)  # element, pass 1
%77 = sub(hyper.lookahead_alpha, 1.0)  # host
%78 = select(%7, hyper.lookahead_alpha, %77)  # host
%79 = mul(%76, %78)  # element, pass 1
%80 = add(%75, %79)  # element, pass 1
%81 = where(%4, %80, slot.lookahead_slow)  # element, pass 1
%82 = where(%4, %80, %74)  # element, pass 1
lookahead_slow <- %81
exp_avg <- %39
exp_avg_sq <- %65
param <- %82
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
  void *const *streams[5];
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

/* A stretch of at most BLOCK, in lanes; it fills `width` of them, and the others hold nothing. */
static inline double sum_tree_stretch(const real *x, int n, const int width) {
  double a[LANES];
  int i = 0;
  for (int l = 0; l < width; l++) a[l] = 0.0;
  for (; i + width <= n; i += width)
    for (int l = 0; l < width; l++) a[l] = sum_tree_join(a[l], x[i + l]);
  for (int l = 0; l < n - i; l++) a[l] = sum_tree_join(a[l], x[i + l]);
  for (int h = width / 2; h; h /= 2)
    for (int l = 0; l < h; l++) a[l] = sum_tree_join(a[l], a[l + h]);
  return a[0];
}
/* Where whole rows, or lines, fit into a block, many are added up in one call; so are small matrices. */
static inline int is_short(i64 n) { return n <= BLOCK; }
static inline int is_small(i64 lines, i64 n) { return lines <= COLUMN_BLOCK && lines * n <= BLOCK; }

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
      v0[i] = x1;
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
static void body_0_1(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
  (void)s; (void)out; (void)n;
  const float *restrict w_1 = (const float *)T->streams[1][t];
  const i64 one = n;
  const i64 step = BLOCK / one * one;
  for (i64 at = begin; at < end; at += step) {
    const int m = end - at < step ? (int)(end - at) : (int)step;
    real v0[BLOCK];
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x1 = w_1[at + i];
      v0[i] = x1;
    }
    if (n <= 1)
      for (int first = 0; first < m; first += (int)n, out++) {
        out[0 * T->results] = sum_tree_stretch(v0 + first, (int)n, 1);
      }
    else if (n <= 2)
      for (int first = 0; first < m; first += (int)n, out++) {
        out[0 * T->results] = sum_tree_stretch(v0 + first, (int)n, 2);
      }
    else if (n <= 4)
      for (int first = 0; first < m; first += (int)n, out++) {
        out[0 * T->results] = sum_tree_stretch(v0 + first, (int)n, 4);
      }
    else if (n <= 8)
      for (int first = 0; first < m; first += (int)n, out++) {
        out[0 * T->results] = sum_tree_stretch(v0 + first, (int)n, 8);
      }
    else 
      for (int first = 0; first < m; first += (int)n, out++) {
        out[0 * T->results] = sum_tree_stretch(v0 + first, (int)n, 16);
      }
  }
}
static inline void part_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, double *out) {
  const real *s = T->scalars + 0 * T->scalar_row[t];
  (void)s; (void)out; (void)n;
  body_0_0(T, t, n, begin, end, s, out);
}
static inline void parts_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, double *out) {
  const real *s = T->scalars + 0 * T->scalar_row[t];
  (void)s; (void)out; (void)n;
  body_0_1(T, t, n, begin, end, s, out);
}
void pass_0(const Table *T) {
#pragma omp parallel for schedule(dynamic, (int)T->grain) num_threads((int)T->threads) if(T->threads > 1)
  for (i64 u = 0; u < T->units; u++) {
    const i64 t = T->unit_tensor[u], n = T->row_size[t];
    const i64 begin = T->unit_begin[u], end = T->unit_end[u];
    if (is_short(n)) {
      parts_0(T, t, n, begin * n, end * n, T->sums + T->row_base[t] + begin);
      continue;
    }
    const i64 blocks = (n + SUM_BLOCK - 1) / SUM_BLOCK;
    for (i64 row = begin; row < end; row++) {
      double *out = T->partials + T->block_base[t] + row * blocks;
      part_0(T, t, n, row * n, row * n + n, out);
      T->sums[0 * T->results + T->row_base[t] + row] = sum_tree_of(out + 0 * T->blocks, blocks);
    }
  }
}

static void body_1_0(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
  (void)s; (void)out; (void)n;
  float *restrict w_4 = (float *)T->streams[4][t];
  float *restrict w_0 = (float *)T->streams[0][t];
  float *restrict w_2 = (float *)T->streams[2][t];
  const float *restrict w_1 = (const float *)T->streams[1][t];
  float *restrict w_3 = (float *)T->streams[3][t];
  const real s2 = s[2];
  const real s3 = s[3];
  const real s4 = s[4];
  const real s5 = s[5];
  const real s6 = s[6];
  const real s7 = s[7];
  const real s8 = s[8];
  const real s9 = s[9];
  const real s10 = s[10];
  for (i64 at = begin; at < end; at += BLOCK) {
    const int m = end - at < BLOCK ? (int)(end - at) : BLOCK;
    real r_0[BLOCK];
    for (i64 i = 0, row = at / T->row_size[t]; i < m; row++) {
      const real value = T->row_values[(T->row_base[t] + row) * 1 + 0];
      const i64 next = (row + 1) * T->row_size[t] - at, stop = next < m ? next : m;
      for (; i < stop; i++) r_0[i] = value;
    }
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x4 = w_4[at + i];
      const real x0 = w_0[at + i];
      const real x2 = w_2[at + i];
      const real x1 = w_1[at + i];
      const real x3 = w_3[at + i];
      const real n0 = (x1 - r_0[i]);
      const real n1 = ((s2 != 0) ? x2 : n0);
      const real n2 = (n0 - x2);
      const real n3 = (n2 * s3);
      const real n4 = (n1 + n3);
      const real n5 = (n4 * s4);
      const real n6 = (n0 * n0);
      const real n7 = ((s5 != 0) ? x3 : n6);
      const real n8 = (n6 - x3);
      const real n9 = (n8 * s6);
      const real n10 = (n7 + n9);
      const real n11 = R(sqrt)(n10);
      const real n12 = (n11 + s7);
      const real n13 = (n5 / n12);
      const real n14 = (n13 * s8);
      const real n15 = (x0 - n14);
      const real n16 = ((s9 != 0) ? x4 : n15);
      const real n17 = (n15 - x4);
      const real n18 = (n17 * s10);
      const real n19 = (n16 + n18);
      w_4[at + i] = n19;
      w_2[at + i] = n4;
      w_3[at + i] = n10;
      w_0[at + i] = n19;
    }
  }
}
static void body_1_1(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
  (void)s; (void)out; (void)n;
  float *restrict w_4 = (float *)T->streams[4][t];
  float *restrict w_0 = (float *)T->streams[0][t];
  float *restrict w_2 = (float *)T->streams[2][t];
  const float *restrict w_1 = (const float *)T->streams[1][t];
  float *restrict w_3 = (float *)T->streams[3][t];
  const real s2 = s[2];
  const real s3 = s[3];
  const real s5 = s[5];
  const real s6 = s[6];
  const real s8 = s[8];
  const real s9 = s[9];
  const real s10 = s[10];
  const real s11 = s[11];
  for (i64 at = begin; at < end; at += BLOCK) {
    const int m = end - at < BLOCK ? (int)(end - at) : BLOCK;
    real r_0[BLOCK];
    for (i64 i = 0, row = at / T->row_size[t]; i < m; row++) {
      const real value = T->row_values[(T->row_base[t] + row) * 1 + 0];
      const i64 next = (row + 1) * T->row_size[t] - at, stop = next < m ? next : m;
      for (; i < stop; i++) r_0[i] = value;
    }
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x4 = w_4[at + i];
      const real x0 = w_0[at + i];
      const real x2 = w_2[at + i];
      const real x1 = w_1[at + i];
      const real x3 = w_3[at + i];
      const real n0 = (x1 - r_0[i]);
      const real n1 = ((s2 != 0) ? x2 : n0);
      const real n2 = (n0 - x2);
      const real n3 = (n2 * s3);
      const real n4 = (n1 + n3);
      const real n5 = (n4 * s11);
      const real n6 = (n5 * s8);
      const real n7 = (x0 - n6);
      const real n8 = ((s9 != 0) ? x4 : n7);
      const real n9 = (n7 - x4);
      const real n10 = (n9 * s10);
      const real n11 = (n8 + n10);
      const real n12 = (n0 * n0);
      const real n13 = ((s5 != 0) ? x3 : n12);
      const real n14 = (n12 - x3);
      const real n15 = (n14 * s6);
      const real n16 = (n13 + n15);
      w_4[at + i] = n11;
      w_2[at + i] = n4;
      w_3[at + i] = n16;
      w_0[at + i] = n11;
    }
  }
}
static void body_1_2(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
  (void)s; (void)out; (void)n;
  float *restrict w_2 = (float *)T->streams[2][t];
  const float *restrict w_1 = (const float *)T->streams[1][t];
  float *restrict w_3 = (float *)T->streams[3][t];
  float *restrict w_0 = (float *)T->streams[0][t];
  const real s2 = s[2];
  const real s3 = s[3];
  const real s4 = s[4];
  const real s5 = s[5];
  const real s6 = s[6];
  const real s7 = s[7];
  const real s8 = s[8];
  for (i64 at = begin; at < end; at += BLOCK) {
    const int m = end - at < BLOCK ? (int)(end - at) : BLOCK;
    real r_0[BLOCK];
    for (i64 i = 0, row = at / T->row_size[t]; i < m; row++) {
      const real value = T->row_values[(T->row_base[t] + row) * 1 + 0];
      const i64 next = (row + 1) * T->row_size[t] - at, stop = next < m ? next : m;
      for (; i < stop; i++) r_0[i] = value;
    }
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x2 = w_2[at + i];
      const real x1 = w_1[at + i];
      const real x3 = w_3[at + i];
      const real x0 = w_0[at + i];
      const real n0 = (x1 - r_0[i]);
      const real n1 = ((s2 != 0) ? x2 : n0);
      const real n2 = (n0 - x2);
      const real n3 = (n2 * s3);
      const real n4 = (n1 + n3);
      const real n5 = (n0 * n0);
      const real n6 = ((s5 != 0) ? x3 : n5);
      const real n7 = (n5 - x3);
      const real n8 = (n7 * s6);
      const real n9 = (n6 + n8);
      const real n10 = (n4 * s4);
      const real n11 = R(sqrt)(n9);
      const real n12 = (n11 + s7);
      const real n13 = (n10 / n12);
      const real n14 = (n13 * s8);
      const real n15 = (x0 - n14);
      w_2[at + i] = n4;
      w_3[at + i] = n9;
      w_0[at + i] = n15;
    }
  }
}
static void body_1_3(const Table *T, i64 t, i64 n, i64 begin, i64 end, const real *restrict s, double *out) {
  (void)s; (void)out; (void)n;
  float *restrict w_2 = (float *)T->streams[2][t];
  const float *restrict w_1 = (const float *)T->streams[1][t];
  float *restrict w_3 = (float *)T->streams[3][t];
  float *restrict w_0 = (float *)T->streams[0][t];
  const real s2 = s[2];
  const real s3 = s[3];
  const real s5 = s[5];
  const real s6 = s[6];
  const real s8 = s[8];
  const real s11 = s[11];
  for (i64 at = begin; at < end; at += BLOCK) {
    const int m = end - at < BLOCK ? (int)(end - at) : BLOCK;
    real r_0[BLOCK];
    for (i64 i = 0, row = at / T->row_size[t]; i < m; row++) {
      const real value = T->row_values[(T->row_base[t] + row) * 1 + 0];
      const i64 next = (row + 1) * T->row_size[t] - at, stop = next < m ? next : m;
      for (; i < stop; i++) r_0[i] = value;
    }
    #pragma GCC ivdep
    for (int i = 0; i < m; i++) {
      const real x2 = w_2[at + i];
      const real x1 = w_1[at + i];
      const real x3 = w_3[at + i];
      const real x0 = w_0[at + i];
      const real n0 = (x1 - r_0[i]);
      const real n1 = ((s2 != 0) ? x2 : n0);
      const real n2 = (n0 - x2);
      const real n3 = (n2 * s3);
      const real n4 = (n1 + n3);
      const real n5 = (n0 * n0);
      const real n6 = ((s5 != 0) ? x3 : n5);
      const real n7 = (n5 - x3);
      const real n8 = (n7 * s6);
      const real n9 = (n6 + n8);
      const real n10 = (n4 * s11);
      const real n11 = (n10 * s8);
      const real n12 = (x0 - n11);
      w_2[at + i] = n4;
      w_3[at + i] = n9;
      w_0[at + i] = n12;
    }
  }
}
static inline void part_1(const Table *T, i64 t, i64 n, i64 begin, i64 end, double *out) {
  const real *s = T->scalars + 12 * T->scalar_row[t];
  (void)s; (void)out; (void)n;
  if (s[0] != 0) {
    if (s[1] != 0) {
      body_1_0(T, t, n, begin, end, s, out);
    } else {
      body_1_1(T, t, n, begin, end, s, out);
    }
  } else {
    if (s[1] != 0) {
      body_1_2(T, t, n, begin, end, s, out);
    } else {
      body_1_3(T, t, n, begin, end, s, out);
    }
  }
}
void pass_1(const Table *T) {
#pragma omp parallel for schedule(dynamic, (int)T->grain) num_threads((int)T->threads) if(T->threads > 1)
  for (i64 u = 0; u < T->units; u++) {
    const i64 t = T->unit_tensor[u], begin = T->unit_begin[u];
    double *out = T->partials + T->block_base[t] + begin / SUM_BLOCK;
    part_1(T, t, 0, begin, T->unit_end[u], out);
  }
}

typedef struct {
  i64 units, threads;
  const i64 *unit_tensor, *unit_begin, *unit_end; /* matrices */
  const i64 *rows, *lines, *columns; /* of a tensor; of each of its matrices */
  const i64 *row_base, *matrix_base, *line_base, *column_base;
  const double *numbers;
  real *row_values, *matrix_values, *line_values, *column_values;
  const double *sums[1];
  void *const *slots[1];
} Vectors;
#undef R
#define R(name) name

void vectors_1(const Vectors *T) {
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)T->threads) if(T->threads > 1)
  for (i64 u = 0; u < T->units; u++) {
    const i64 t = T->unit_tensor[u], lines = T->lines[t], columns = T->columns[t];
    (void)lines; (void)columns;
    const double n1 = T->numbers[1 * t + 0];
    for (i64 k = T->unit_begin[u]; k < T->unit_end[u]; k++) {
    }
    if (T->unit_begin[u] == 0) {
      for (i64 i = 0; i < T->rows[t]; i++) {
        const double n0 = T->sums[0][T->row_base[t] + i];
        const double n2 = (n0 * n1);
        T->row_values[(T->row_base[t] + i) * 1 + 0] = (real)n2;
      }
    }
  }
}
