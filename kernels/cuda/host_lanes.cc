#include "kernels/cuda/host_lanes.h"

#include <algorithm>
#include <vector>

#include "engine/base/float16.h"

namespace
{

/* m16n8k16, 16-bit elements: where element i of lane's fragment lies. */
int a16_row(int lane, int i)
{
    return lane / 4 + ((i < 2 || (i >= 4 && i < 6)) ? 0 : 8);
}

int a16_col(int lane, int i)
{
    return lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8);
}

int b16_row(int lane, int i)
{
    return lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8);
}

/* m16n8k32, 8-bit elements. */
int a8_row(int lane, int i)
{
    return lane / 4 + ((i < 4 || (i >= 8 && i < 12)) ? 0 : 8);
}

int a8_col(int lane, int i)
{
    return lane % 4 * 4 + (i & 3) + (i < 8 ? 0 : 16);
}

int b8_row(int lane, int i)
{
    return lane % 4 * 4 + (i & 3) + (i < 4 ? 0 : 16);
}

int b_col(int lane)
{
    return lane / 4;
}

/* The accumulator of both. */
int d_row(int lane, int i)
{
    return lane / 4 + (i < 2 ? 0 : 8);
}

int d_col(int lane, int i)
{
    return lane % 4 * 2 + (i & 1);
}

float element16(uint32_t word, int i, bool bf16)
{
    uint16_t half = (uint16_t)(word >> 16 * (i & 1));
    return bf16 ? bf16_to_f32(half) : f16_to_f32(half);
}

/* Products exact, summed in double, rounded once. */
void mma16(struct simt_host_mma *const lanes[SIMT_WARP], bool bf16)
{
    double a[16][16], b[16][8];
    for (int lane = 0; lane < SIMT_WARP; lane++) {
        for (int i = 0; i < 8; i++) {
            a[a16_row(lane, i)][a16_col(lane, i)] = element16(lanes[lane]->a[i / 2], i, bf16);
        }
        for (int i = 0; i < 4; i++) {
            b[b16_row(lane, i)][b_col(lane)] = element16(lanes[lane]->b[i / 2], i, bf16);
        }
    }
    for (int lane = 0; lane < SIMT_WARP; lane++) {
        for (int i = 0; i < 4; i++) {
            float *d = (float *)lanes[lane]->d + i;
            double sum = *d;
            for (int k = 0; k < 16; k++) {
                sum += a[d_row(lane, i)][k] * b[k][d_col(lane, i)];
            }
            *d = (float)sum;
        }
    }
}

void mma8(struct simt_host_mma *const lanes[SIMT_WARP])
{
    int32_t a[16][32], b[32][8];
    for (int lane = 0; lane < SIMT_WARP; lane++) {
        for (int i = 0; i < 16; i++) {
            a[a8_row(lane, i)][a8_col(lane, i)] = (int8_t)(lanes[lane]->a[i / 4] >> 8 * (i & 3));
        }
        for (int i = 0; i < 8; i++) {
            b[b8_row(lane, i)][b_col(lane)] = (int8_t)(lanes[lane]->b[i / 4] >> 8 * (i & 3));
        }
    }
    for (int lane = 0; lane < SIMT_WARP; lane++) {
        for (int i = 0; i < 4; i++) {
            int32_t *d = (int32_t *)lanes[lane]->d + i;
            uint32_t sum = (uint32_t)*d; /* wraps as the card does */
            for (int k = 0; k < 32; k++) {
                sum += (uint32_t)(a[d_row(lane, i)][k] * b[k][d_col(lane, i)]);
            }
            *d = (int32_t)sum;
        }
    }
}

void exchange(enum simt_host_op op, struct simt_host_shuffle *const lanes[SIMT_WARP])
{
    uint32_t ballot = 0;
    for (int lane = 0; lane < SIMT_WARP; lane++) {
        ballot |= (uint32_t)(lanes[lane]->value != 0) << lane;
    }
    for (int lane = 0; lane < SIMT_WARP; lane++) {
        int32_t from = op == SIMT_HOST_SHUFFLE ? lanes[lane]->lane : lane ^ lanes[lane]->lane;
        lanes[lane]->out = op == SIMT_HOST_BALLOT ? ballot : lanes[from & (SIMT_WARP - 1)]->value;
    }
}

/* Word i of lane 4 g + t comes from rows 2 t and 2 t + 1 of matrix i, whose rows lanes 8 i ... 8 i + 7 point
 * to. */
void exchange_rows(struct simt_host_rows *const lanes[SIMT_WARP])
{
    for (int lane = 0; lane < SIMT_WARP; lane++) {
        for (int i = 0; i < 8; i++) {
            lanes[lane]->rows[i] = lanes[i / 2 * 8 + lane % 4 * 2 + i % 2]->row;
        }
    }
}

} // namespace

void simt_host_collective(enum simt_host_op op, void *const lanes[SIMT_WARP])
{
    struct simt_host_mma *products[SIMT_WARP];
    struct simt_host_shuffle *exchanges[SIMT_WARP];
    struct simt_host_rows *rows[SIMT_WARP];
    for (int lane = 0; lane < SIMT_WARP; lane++) {
        products[lane] = (struct simt_host_mma *)lanes[lane];
        exchanges[lane] = (struct simt_host_shuffle *)lanes[lane];
        rows[lane] = (struct simt_host_rows *)lanes[lane];
    }
    switch (op) {
    case SIMT_HOST_MMA_BF16:
        mma16(products, true);
        break;
    case SIMT_HOST_MMA_F16:
        mma16(products, false);
        break;
    case SIMT_HOST_MMA_S8:
        mma8(products);
        break;
    case SIMT_HOST_ROWS:
        exchange_rows(rows);
        break;
    default:
        exchange(op, exchanges);
        break;
    }
}

int64_t simt_host_wavefronts(const uintptr_t *addresses, int32_t n_lanes, int32_t bytes)
{
    const int32_t lanes_a_part = SIMT_HOST_BANKS * 4 / bytes;
    int64_t total = 0;
    for (int32_t begin = 0; begin < n_lanes; begin += lanes_a_part) {
        std::vector<uintptr_t> words[SIMT_HOST_BANKS];
        size_t most = 0;
        for (int32_t lane = begin; lane < n_lanes && lane < begin + lanes_a_part; lane++) {
            for (int32_t byte = 0; byte < bytes; byte += 4) {
                uintptr_t word = (addresses[lane] + (uintptr_t)byte) / 4;
                std::vector<uintptr_t> &bank = words[word % SIMT_HOST_BANKS];
                if (std::find(bank.begin(), bank.end(), word) == bank.end()) {
                    bank.push_back(word);
                }
                most = std::max(most, bank.size());
            }
        }
        total += (int64_t)most;
    }
    return total;
}
