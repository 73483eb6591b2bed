// Unicode normalisation forms, case folding to lower case and removal of accents.
//
// Linear in the text up to the sorting of runs of combining marks (utf8proc's own entry point sorts
// those by insertion, quadratic on a hostile text).
#pragma once

#include <string>
#include <string_view>

namespace fireq::text {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` is valid UTF-8. Source: Unicode Standard Annex 15.
std::string NormalizeUnicode(std::string_view text, NormalForm form);

std::string LowerCase(std::string_view text);
std::string UpperCase(std::string_view text);

// Removes characters of category M*.
std::string StripAccents(std::string_view text);

bool IsPunctuation(char32_t code);  // ASCII punctuation and symbols, or category P*

bool IsLetter(char32_t code);  // category L*
bool IsNumber(char32_t code);  // category N*

// What Python's repr shows as it is: all but controls, unassigned characters and spaces, the space
// itself apart.
bool IsPrintable(char32_t code);

// What \w matches in a Rust regular expression: L*, M*, Nd, Nl, Pc and the two joiners.
bool IsWordChar(char32_t code);

}  // namespace fireq::text
