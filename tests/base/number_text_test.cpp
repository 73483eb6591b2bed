#include "fireq/base/number_text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fireq/base/error.h"
#include "tests/support/comma_locale.h"

namespace fireq {
namespace {

void ExpectPoints() {
  EXPECT_EQ(FixedText(-2.25, 1), "-2.2");
  EXPECT_EQ(FixedText(1e300, 3).size(), 301 + 4);
  EXPECT_EQ(FixedText(std::numeric_limits<double>::lowest(), 40).size(), 1 + 309 + 41);
  EXPECT_EQ(ScientificText(12345.678, 6), "1.234568e+04");
  EXPECT_EQ(GeneralText(0.5, 9), "0.5");
  EXPECT_EQ(GeneralText(1e-7, 6), "1e-07");
  EXPECT_EQ(GeneralText(INFINITY, 6), "inf");
  EXPECT_EQ(StrCat(1.5, " ", 0.1F), "1.5 0.100000001");
  EXPECT_EQ(ParseNumber("-1.5e1"), -15.0);
  for (const char* text : {"", "1,5", "1.5 ", " 1.5", "0x", "1e999", "."}) {
    EXPECT_EQ(ParseNumber(text), std::nullopt) << text;
  }
}

TEST(NumberText, IsThatOfPrintf) { ExpectPoints(); }

TEST(NumberText, DoesNotFollowTheLocale) {
  const test::CommaLocale locale;
  if (!locale.is_set()) GTEST_SKIP() << "skipped: no locale with a decimal comma here";
  ExpectPoints();
}

}  // namespace
}  // namespace fireq
