#include "base/file_kind.h"

#include <cstring>

namespace longhaul {
namespace {

using namespace std::string_view_literals;

struct Mark {
  std::string_view bytes, meaning;
  bool in_text = true;    // no text begins so
  bool in_tokens = true;  // no file of 16-bit tokens begins so, but by a very rare chance
};

constexpr std::string_view pickle =
    "a Python pickle (PyTorch's older .bin and .pt files are such): convert weights to safetensors first";
constexpr std::string_view web_page = "a web page: the download brought a page or an error message instead of the file";

constexpr Mark marks[] = {
    {"version https://git-lfs"sv, "a Git LFS pointer, not the file itself: fetch that (git lfs pull)"},
    {"\x1f\x8b\x08"sv, "gzip data; decompress it first"},
    {"\x28\xb5\x2f\xfd"sv, "zstd data; decompress it first"},
    {"\xfd\x37\x7a\x58\x5a\0"sv, "xz data; decompress it first"},
    {"BZh91AY&SY"sv, "bzip2 data; decompress it first"},
    {"PAR1"sv, "a Parquet file; write its texts as jsonl first"},
    {"ARROW1\0"sv, "an Arrow file; write its texts as jsonl first"},
    {"PK\x03\x04"sv,
     "a zip archive (PyTorch's .bin, .pt and .pth files are such, and .npz): convert weights to safetensors first"},
    {"\x80\x02"sv, pickle, true, false},
    {"\x80\x04"sv, pickle, true, false},
    {"GGUF"sv, "a GGUF file, quantized for inference; take the model's safetensors"},
    {"\x93NUMPY"sv, "a NumPy array"},
    {"\x89HDF\r\n"sv, "an HDF5 file"},
    {"SQLite format 3\0"sv, "an SQLite database"},
    {"MMIDIDX\0\0"sv, "a Megatron index (data.format: megatron)"},
    {"<!DOCTYPE"sv, web_page, false},
    {"<!doctype"sv, web_page, false},
    {"<html"sv, web_page, false},
};

}  // namespace

std::string file_kind(std::string_view head, TakenFor expected) {
  for (const auto& mark : marks)
    if (head.starts_with(mark.bytes) && (expected != TakenFor::text || mark.in_text) &&
        (expected != TakenFor::tokens || mark.in_tokens))
      return std::string(mark.meaning);
  if (head.size() >= 8) {
    std::int32_t words[2];
    std::memcpy(words, head.data(), 8);
    if ((words[0] == 20240520 && words[1] == 1) || (words[0] == 20240801 && words[1] == 7))
      return "a token file of llm.c (data.format: llmc)";
    if (words[0] == 20240522) return "an evaluation file of llm.c, which is not a token stream";
    if (words[0] == 20240326) return "a model of llm.c";
    if (words[0] == 20240328) return "a tokenizer of llm.c";
  }
  return "";
}

}  // namespace longhaul
