#include "fireq/io/ggml_types.h"

#include <bit>
#include <cstring>

#include "fireq/formats/f16.h"

namespace fireq {
namespace {

// Block layouts as ggml-common.h of ggml-org/ggml defines them. In the K types a super-block holds
// 256 values in sub-blocks of 16 or 32, each with a small integer scale (and minimum).
constexpr int kSuper = 256;

template <class T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

float Half(const uint8_t* bytes) { return F16ToFloat(Load<uint16_t>(bytes)); }

void DecodeF32(const uint8_t* blocks, int64_t num_blocks, float* values) {
  std::memcpy(values, blocks, static_cast<size_t>(num_blocks) * sizeof(float));
}

void DecodeF16(const uint8_t* blocks, int64_t num_blocks, float* values) {
  for (int64_t i = 0; i < num_blocks; ++i) values[i] = Half(blocks + 2 * i);
}

void DecodeBF16(const uint8_t* blocks, int64_t num_blocks, float* values) {
  for (int64_t i = 0; i < num_blocks; ++i) {
    values[i] = std::bit_cast<float>(static_cast<uint32_t>(Load<uint16_t>(blocks + 2 * i)) << 16);
  }
}

// One block of each type; Decode<> below runs them over a tensor.

struct Q4_0 {  // half d; 16 bytes: values 0..15 in the low nibbles, 16..31 in the high
  static constexpr int kElements = 32, kBytes = 18;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Half(block);
    for (int i = 0; i < 16; ++i) {
      y[i] = d * static_cast<float>((block[2 + i] & 0xF) - 8);
      y[i + 16] = d * static_cast<float>((block[2 + i] >> 4) - 8);
    }
  }
};

struct Q4_1 {  // half d, half minimum; nibbles as in Q4_0
  static constexpr int kElements = 32, kBytes = 20;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Half(block);
    const float m = Half(block + 2);
    for (int i = 0; i < 16; ++i) {
      y[i] = d * static_cast<float>(block[4 + i] & 0xF) + m;
      y[i + 16] = d * static_cast<float>(block[4 + i] >> 4) + m;
    }
  }
};

// Value i of a Q5_0 or Q5_1 block: a nibble and bit i of a 32-bit word.
int FiveBits(const uint8_t* nibbles, uint32_t high, int i) {
  const int low = i < 16 ? nibbles[i] & 0xF : nibbles[i - 16] >> 4;
  return low | static_cast<int>(((high >> i) & 1u) << 4);
}

struct Q5_0 {  // half d; u32 of fifth bits; nibbles
  static constexpr int kElements = 32, kBytes = 22;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Half(block);
    const uint32_t high = Load<uint32_t>(block + 2);
    for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(FiveBits(block + 6, high, i) - 16);
  }
};

struct Q5_1 {  // half d, half minimum; u32 of fifth bits; nibbles
  static constexpr int kElements = 32, kBytes = 24;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Half(block);
    const float m = Half(block + 2);
    const uint32_t high = Load<uint32_t>(block + 4);
    for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(FiveBits(block + 8, high, i)) + m;
  }
};

struct Q8_0 {  // half d; 32 int8
  static constexpr int kElements = 32, kBytes = 34;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Half(block);
    for (int i = 0; i < 32; ++i) y[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * d;
  }
};

struct Q8_K {  // float d; 256 int8; 16 int16 sums, which decoding does not need
  static constexpr int kElements = kSuper, kBytes = 292;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Load<float>(block);
    for (int i = 0; i < kSuper; ++i) {
      y[i] = d * static_cast<float>(static_cast<int8_t>(block[4 + i]));
    }
  }
};

// Two bits of value i of a super-block: 128 values share 32 bytes, 32 at each shift 0, 2, 4, 6.
int TwoBits(const uint8_t* quants, int i) {
  return (quants[(i / 128) * 32 + i % 32] >> (2 * ((i / 32) % 4))) & 3;
}

struct Q2_K {  // 16 x (4-bit scale, 4-bit minimum); 64 bytes of 2-bit values; half d, half dmin
  static constexpr int kElements = kSuper, kBytes = 84;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Half(block + 80);
    const float dmin = Half(block + 82);
    for (int i = 0; i < kSuper; ++i) {
      const uint8_t scale = block[i / 16];
      const float step = d * static_cast<float>(scale & 0xF);
      const float minimum = dmin * static_cast<float>(scale >> 4);
      y[i] = step * static_cast<float>(TwoBits(block + 16, i)) - minimum;
    }
  }
};

struct Q3_K {  // 32 bytes of third bits; 64 bytes of 2-bit values; 16 6-bit scales; half d
  static constexpr int kElements = kSuper, kBytes = 110;
  static void Decode(const uint8_t* block, float* y) {
    const uint8_t* scales = block + 96;
    const float d = Half(block + 108);
    for (int group = 0; group < 16; ++group) {
      // Four low bits: scales[0..7], low nibbles first; two high bits: scales[8..11], 0..3 first.
      const int low = group < 8 ? scales[group] & 0xF : scales[group - 8] >> 4;
      const int high = (scales[8 + group % 4] >> (2 * (group / 4))) & 3;
      const float step = d * static_cast<float>((low | (high << 4)) - 32);
      for (int i = 16 * group; i < 16 * group + 16; ++i) {
        const int third = (block[i % 32] >> (i / 32)) & 1;  // set: nothing to subtract
        y[i] = step * static_cast<float>(TwoBits(block + 32, i) - (third ? 0 : 4));
      }
    }
  }
};

// 6-bit scale and minimum of sub-block j of Q4_K and Q5_K: the first four of each lie in the low
// six bits of bytes 0..3 and 4..7; the rest combine a nibble of bytes 8..11 with the two high bits.
struct ScaleMinimum {
  float scale;
  float minimum;
};
ScaleMinimum ScaleMinimumOf(const uint8_t* packed, int j) {
  if (j < 4) {
    return {static_cast<float>(packed[j] & 0x3F), static_cast<float>(packed[j + 4] & 0x3F)};
  }
  return {static_cast<float>((packed[j + 4] & 0xF) | ((packed[j - 4] >> 6) << 4)),
          static_cast<float>((packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))};
}

// Nibble of value i of a super-block: 64 values share 32 bytes, the first 32 in the low nibbles.
int NibbleOf64(const uint8_t* quants, int i) {
  return (quants[(i / 64) * 32 + i % 32] >> (4 * ((i / 32) % 2))) & 0xF;
}

// Values of Q4_K and Q5_K, whose blocks begin alike: half d, half dmin, 12 bytes of scales. `quant`
// is the integer of value i in sub-block j.
template <class Quant>
void DecodeWithMinimums(const uint8_t* block, float* y, const Quant& quant) {
  const float d = Half(block);
  const float dmin = Half(block + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMinimum s = ScaleMinimumOf(block + 4, j);
    const float step = d * s.scale;
    const float minimum = dmin * s.minimum;
    for (int i = 32 * j; i < 32 * j + 32; ++i)
      y[i] = step * static_cast<float>(quant(i, j)) - minimum;
  }
}

struct Q4_K {  // then 128 bytes of nibbles
  static constexpr int kElements = kSuper, kBytes = 144;
  static void Decode(const uint8_t* block, float* y) {
    DecodeWithMinimums(block, y, [&](int i, int) { return NibbleOf64(block + 16, i); });
  }
};

struct Q5_K {  // then 32 bytes of fifth bits and 128 of nibbles
  static constexpr int kElements = kSuper, kBytes = 176;
  static void Decode(const uint8_t* block, float* y) {
    DecodeWithMinimums(block, y, [&](int i, int j) {
      const int high = (block[16 + i % 32] >> j) & 1;
      return NibbleOf64(block + 48, i) | (high << 4);
    });
  }
};

struct Q6_K {  // 128 bytes of low nibbles; 64 bytes of high 2 bits; 16 int8 scales; half d
  static constexpr int kElements = kSuper, kBytes = 210;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Half(block + 208);
    for (int i = 0; i < kSuper; ++i) {
      const float step = d * static_cast<float>(static_cast<int8_t>(block[192 + i / 16]));
      // 128 values share 64 bytes: 64 in the low nibbles, 64 in the high.
      const int low = (block[(i / 128) * 64 + i % 64] >> (4 * ((i / 64) % 2))) & 0xF;
      y[i] = step * static_cast<float>((low | (TwoBits(block + 128, i) << 4)) - 32);
    }
  }
};

// The non-linear grid of the IQ4 types.
constexpr float kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

struct IQ4_NL {  // half d; nibbles as in Q4_0
  static constexpr int kElements = 32, kBytes = 18;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Half(block);
    for (int i = 0; i < 16; ++i) {
      y[i] = d * kIq4Values[block[2 + i] & 0xF];
      y[i + 16] = d * kIq4Values[block[2 + i] >> 4];
    }
  }
};

struct IQ4_XS {  // half d; u16 of high scale bits; 4 bytes of low scale nibbles; 8 x 16 nibble
                 // bytes
  static constexpr int kElements = kSuper, kBytes = 136;
  static void Decode(const uint8_t* block, float* y) {
    const float d = Half(block);
    const int high_bits = Load<uint16_t>(block + 2);
    for (int j = 0; j < 8; ++j) {
      const int low = (block[4 + j / 2] >> (4 * (j % 2))) & 0xF;
      const int high = (high_bits >> (2 * j)) & 3;
      const float step = d * static_cast<float>((low | (high << 4)) - 32);
      for (int i = 0; i < 16; ++i) {
        const uint8_t nibbles = block[8 + 16 * j + i];
        y[32 * j + i] = step * kIq4Values[nibbles & 0xF];
        y[32 * j + i + 16] = step * kIq4Values[nibbles >> 4];
      }
    }
  }
};

template <class Block>
void Decode(const uint8_t* blocks, int64_t num_blocks, float* values) {
  for (int64_t i = 0; i < num_blocks; ++i) {
    Block::Decode(blocks + i * Block::kBytes, values + i * Block::kElements);
  }
}

template <class Block>
constexpr GgmlType Readable(uint32_t id, std::string_view name) {
  return {id, name, Block::kElements, Block::kBytes, &Decode<Block>};
}

constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4, &DecodeF32},     {1, "F16", 1, 2, &DecodeF16},
    {30, "BF16", 1, 2, &DecodeBF16},  Readable<Q4_0>(2, "Q4_0"),
    Readable<Q4_1>(3, "Q4_1"),        Readable<Q5_0>(6, "Q5_0"),
    Readable<Q5_1>(7, "Q5_1"),        Readable<Q8_0>(8, "Q8_0"),
    Readable<Q2_K>(10, "Q2_K"),       Readable<Q3_K>(11, "Q3_K"),
    Readable<Q4_K>(12, "Q4_K"),       Readable<Q5_K>(13, "Q5_K"),
    Readable<Q6_K>(14, "Q6_K"),       Readable<Q8_K>(15, "Q8_K"),
    Readable<IQ4_NL>(20, "IQ4_NL"),   Readable<IQ4_XS>(23, "IQ4_XS"),
    {9, "Q8_1", 32, 40, nullptr},     {16, "IQ2_XXS", 256, 66, nullptr},
    {17, "IQ2_XS", 256, 74, nullptr}, {18, "IQ3_XXS", 256, 98, nullptr},
    {19, "IQ1_S", 256, 50, nullptr},  {21, "IQ3_S", 256, 110, nullptr},
    {22, "IQ2_S", 256, 82, nullptr},  {24, "I8", 1, 1, nullptr},
    {25, "I16", 1, 2, nullptr},       {26, "I32", 1, 4, nullptr},
    {27, "I64", 1, 8, nullptr},       {28, "F64", 1, 8, nullptr},
    {29, "IQ1_M", 256, 56, nullptr},  {34, "TQ1_0", 256, 54, nullptr},
    {35, "TQ2_0", 256, 66, nullptr},  {39, "MXFP4", 32, 17, nullptr},
};

}  // namespace

const GgmlType* FindGgmlType(uint32_t id) {
  for (const GgmlType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

std::string ReadableGgmlTypes() {
  std::string out;
  for (const GgmlType& type : kTypes) {
    if (type.decode == nullptr) continue;
    out += (out.empty() ? "" : ", ") + std::string(type.name);
  }
  return out;
}

}  // namespace fireq
