// A process whose user writes a comma between the digits of a number.
#pragma once

#include <clocale>
#include <cstring>
#include <string>

namespace fireq::test {

// Sets such a locale for numbers, if the system has one, and the former one when it goes.
class CommaLocale {
 public:
  CommaLocale() : former_(std::setlocale(LC_NUMERIC, nullptr)) {
    for (const char* name : {"de_DE.UTF-8", "fr_FR.UTF-8", "es_ES.UTF-8", "nl_NL.UTF-8"}) {
      is_set_ = is_set_ || std::setlocale(LC_NUMERIC, name) != nullptr;
    }
    is_set_ = is_set_ && std::strcmp(std::localeconv()->decimal_point, ",") == 0;
  }
  ~CommaLocale() { std::setlocale(LC_NUMERIC, former_.c_str()); }
  CommaLocale(const CommaLocale&) = delete;
  CommaLocale& operator=(const CommaLocale&) = delete;

  bool is_set() const { return is_set_; }

 private:
  std::string former_;
  bool is_set_ = false;
};

}  // namespace fireq::test
