// Filters of lists and dicts.
#include <algorithm>

#include "fireq/base/error.h"
#include "fireq/text/jinja/filter_table.h"
#include "fireq/text/unicode_normal.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;

// "a.b.0" or an integer: what an `attribute` argument selects; `fallback` (None or nullptr: there
// is none) where an item lacks a part of it.
Value SelectAttribute(const Value& item, const Value& path, const Value* fallback = nullptr) {
  const auto select = [fallback](const Value& from, const Value& part) {
    Value value = GetItem(from, part);
    const bool replaced =
        value.Is(Type::kUndefined) && fallback != nullptr && !fallback->Is(Type::kNone);
    return replaced ? *fallback : value;
  };
  if (!path.Is(Type::kString)) return select(item, path);
  Value value = item;
  std::string_view rest = path.AsString();
  while (true) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    const bool is_index =
        !part.empty() && part.find_first_not_of("0123456789") == part.npos && part.size() < 10;
    value = select(value, is_index ? Value::Int(std::stoll(std::string(part))) : Text(part));
    if (dot == rest.size()) return value;
    rest.remove_prefix(dot + 1);
  }
}

// The key that sort, unique, min, max and groupby compare: lower-cased unless case_sensitive.
Value SortKey(const Value& item, const Value* attribute, const Value* fallback,
              bool case_sensitive) {
  const bool selects = attribute != nullptr && !attribute->Is(Type::kNone);
  Value key = selects ? SelectAttribute(item, *attribute, fallback) : item;
  if (case_sensitive || !key.Is(Type::kString)) return key;
  return Value::String(text::LowerCase(key.AsString()));
}

struct Keyed {
  Value key;
  Value item;
};

std::vector<Keyed> WithKeys(Runtime& runtime, const Value& value, const Value* attribute,
                            bool case_sensitive, const Value* fallback = nullptr) {
  std::vector<Keyed> out;
  for (const Value& item : Iterate(runtime, value)) {
    out.push_back({SortKey(item, attribute, fallback, case_sensitive), item});
  }
  // A comparison sort touches every item about log n times.
  runtime.budget.Charge(8 * value.weight());
  return out;
}

Value Sort(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  auto items = WithKeys(runtime, value, in.Get("attribute"), in.Bool("case_sensitive", false));
  const bool reverse = in.Bool("reverse", false);
  std::ranges::stable_sort(items, [&](const Keyed& a, const Keyed& b) {
    return reverse ? Less(b.key, a.key) : Less(a.key, b.key);
  });
  List out;
  for (Keyed& entry : items) out.push_back(std::move(entry.item));
  return Value::MakeList(std::move(out));
}

Value Dictsort(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  FIREQ_CHECK(value.Is(Type::kDict), kInvalidArgument, "dictsort needs a dict, got ",
              value.TypeName());
  const bool by_value = in.String("by", "key") == "value";
  const Value index = Value::Int(by_value ? 1 : 0);
  Arguments sort;
  sort.named.emplace_back("attribute", index);
  sort.named.emplace_back("reverse", Value::Bool(in.Bool("reverse", false)));
  sort.named.emplace_back("case_sensitive", Value::Bool(in.Bool("case_sensitive", false)));
  return Sort(runtime, CallMethod(value, "items", {}), sort);
}

Value Extreme(std::string_view name, Runtime& runtime, const Value& value,
              const Arguments& arguments, bool largest) {
  const ArgumentReader in(name, arguments, {"case_sensitive", "attribute"});
  const auto items =
      WithKeys(runtime, value, in.Get("attribute"), in.Bool("case_sensitive", false));
  if (items.empty()) return Value::Undefined(StrCat("the ", name, " of nothing"));
  const Keyed* best = &items[0];
  for (const Keyed& entry : items) {
    if (largest ? Less(best->key, entry.key) : Less(entry.key, best->key)) best = &entry;
  }
  return best->item;
}

Value Unique(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("unique", arguments, {"case_sensitive", "attribute"});
  List out;
  List seen;
  for (Keyed& entry :
       WithKeys(runtime, value, in.Get("attribute"), in.Bool("case_sensitive", false))) {
    runtime.budget.Charge(static_cast<int64_t>(seen.size()) * entry.key.weight());
    if (std::ranges::any_of(seen, [&](const Value& v) { return Equal(v, entry.key); })) continue;
    seen.push_back(std::move(entry.key));
    out.push_back(std::move(entry.item));
  }
  return Value::MakeList(std::move(out));
}

Value GroupBy(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("groupby", arguments, {"attribute", "default", "case_sensitive"});
  const Value& attribute = in.Need("attribute");
  const Value* fallback = in.Get("default");
  auto items = WithKeys(runtime, value, &attribute, in.Bool("case_sensitive", false), fallback);
  std::ranges::stable_sort(items,
                           [](const Keyed& a, const Keyed& b) { return Less(a.key, b.key); });
  List groups;
  for (size_t i = 0; i < items.size();) {
    List group;
    const size_t first = i;
    for (; i < items.size() && Equal(items[i].key, items[first].key); ++i) {
      group.push_back(items[i].item);
    }
    // The key with its letters' case, as the first item has it.
    groups.push_back(Value::NamedTuple({"grouper", "list"},
                                       {SelectAttribute(items[first].item, attribute, fallback),
                                        Value::MakeList(std::move(group))}));
  }
  return Value::MakeList(std::move(groups));
}

Value Join(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("join", arguments, {"d", "attribute"});
  const std::string gap = in.Get("d") == nullptr ? "" : in.Get("d")->ToString();
  const Value* attribute = in.Get("attribute");
  std::string out;
  bool first = true;
  for (const Value& item : Iterate(runtime, value)) {
    if (!first) out += gap;
    first = false;
    out += (attribute == nullptr ? item : SelectAttribute(item, *attribute)).ToString();
    FIREQ_CHECK(static_cast<int64_t>(out.size()) <= kMaxWeight, kUnsupported,
                "join makes more than ", kMaxWeight, " bytes");
  }
  runtime.budget.Charge(static_cast<int64_t>(out.size()));
  return Value::String(std::move(out));
}

// Splits the arguments of select and friends: the first is the name of a test.
struct TestCall {
  std::string name;
  Arguments arguments;
};

TestCall ReadTest(const Arguments& arguments, size_t skip) {
  TestCall call;
  if (arguments.positional.size() > skip) {
    FIREQ_CHECK(arguments.positional[skip].Is(Type::kString), kInvalidArgument,
                "the name of a test must be a str");
    call.name = arguments.positional[skip].AsString();
    call.arguments.positional.assign(
        arguments.positional.begin() + static_cast<ptrdiff_t>(skip) + 1,
        arguments.positional.end());
    call.arguments.named = arguments.named;
  }
  return call;
}

// select, reject (skip 0) and selectattr, rejectattr (skip 1, by an attribute).
Value Filter(Runtime& runtime, const Value& value, const Arguments& arguments, size_t skip,
             bool keep) {
  FIREQ_CHECK(arguments.positional.size() >= skip, kInvalidArgument,
              "selectattr and rejectattr need the name of an attribute");
  const TestCall test = ReadTest(arguments, skip);
  List out;
  for (const Value& item : Iterate(runtime, value)) {
    const Value subject = skip == 0 ? item : SelectAttribute(item, arguments.positional[0]);
    const bool matches = test.name.empty() ? subject.Truthy()
                                           : ApplyTest(runtime, test.name, subject, test.arguments);
    if (matches == keep) out.push_back(item);
  }
  return Value::MakeList(std::move(out));
}

Value Map(Runtime& runtime, const Value& value, const Arguments& arguments) {
  List out;
  if (arguments.positional.empty()) {
    const ArgumentReader in("map", arguments, {"attribute", "default"});
    for (const Value& item : Iterate(runtime, value)) {
      out.push_back(SelectAttribute(item, in.Need("attribute"), in.Get("default")));
    }
    return Value::MakeList(std::move(out));
  }
  const TestCall filter = ReadTest(arguments, 0);
  for (const Value& item : Iterate(runtime, value)) {
    out.push_back(ApplyFilter(runtime, filter.name, item, filter.arguments));
  }
  return Value::MakeList(std::move(out));
}

Value Reverse(Runtime& runtime, const Value& value, const Arguments&) {
  List items = Iterate(runtime, value);
  std::ranges::reverse(items);
  if (!value.Is(Type::kString)) return Value::MakeList(std::move(items));
  std::string out;
  for (const Value& c : items) out += c.AsString();
  return Value::String(std::move(out));
}

Value Sum(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("sum", arguments, {"attribute", "start"});
  Value total = in.Get("start") != nullptr ? *in.Get("start") : Value::Int(0);
  const Value* attribute = in.Get("attribute");
  const bool selects = attribute != nullptr && !attribute->Is(Type::kNone);
  for (const Value& item : Iterate(runtime, value)) {
    total = Arithmetic(runtime, "+", total, selects ? SelectAttribute(item, *attribute) : item);
  }
  return total;
}

Value Batch(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("batch", arguments, {"linecount", "fill_with"});
  const int64_t size = in.Int("linecount", 1);
  constexpr int64_t kMaxSize = 100'000;
  FIREQ_CHECK(size > 0 && size <= kMaxSize, kInvalidArgument, "batch: a line count of ", size);
  const List items = Iterate(runtime, value);
  List out;
  for (size_t at = 0; at < items.size(); at += static_cast<size_t>(size)) {
    const size_t end = std::min(items.size(), at + static_cast<size_t>(size));
    List line(items.begin() + static_cast<ptrdiff_t>(at),
              items.begin() + static_cast<ptrdiff_t>(end));
    if (in.Get("fill_with") != nullptr) {
      line.resize(static_cast<size_t>(size), *in.Get("fill_with"));
    }
    out.push_back(Value::MakeList(std::move(line)));
  }
  return Value::MakeList(std::move(out));
}

Value First(Runtime& runtime, const Value& value, const Arguments&) {
  const List items = Iterate(runtime, value);
  return items.empty() ? Value::Undefined("the first of nothing") : items.front();
}

Value Last(Runtime& runtime, const Value& value, const Arguments&) {
  const List items = Iterate(runtime, value);
  return items.empty() ? Value::Undefined("the last of nothing") : items.back();
}

// Of the value itself: an entry of a dict is none.
Value Attribute(Runtime&, const Value& value, const Arguments& arguments) {
  const std::string name = ArgumentReader("attr", arguments, {"name"}).Need("name").ToString();
  if (value.Is(Type::kDict) && !HasMethod(value, name)) {
    return Value::Undefined(StrCat("attribute '", name, "' of a dict"));
  }
  return GetAttribute(value, name);
}

Value ItemsOf(Runtime& runtime, const Value& value, const Arguments&) {
  if (value.Is(Type::kUndefined)) return Value::MakeList({});
  FIREQ_CHECK(value.Is(Type::kDict), kInvalidArgument, "items needs a dict, got ",
              value.TypeName());
  runtime.budget.Charge(value.weight());
  return CallMethod(value, "items", {});
}

constexpr FilterRow kSequenceFilters[] = {
    {"attr", Attribute},
    {"batch", Batch},
    {"count", [](Runtime&, const Value& v, const Arguments&) { return Value::Int(Length(v)); }},
    {"dictsort", Dictsort},
    {"first", First},
    {"groupby", GroupBy},
    {"items", ItemsOf},
    {"join", Join},
    {"last", Last},
    {"length", [](Runtime&, const Value& v, const Arguments&) { return Value::Int(Length(v)); }},
    {"list",
     [](Runtime& r, const Value& v, const Arguments&) { return Value::MakeList(Iterate(r, v)); }},
    {"map", Map},
    {"max",
     [](Runtime& r, const Value& v, const Arguments& a) { return Extreme("max", r, v, a, true); }},
    {"min",
     [](Runtime& r, const Value& v, const Arguments& a) { return Extreme("min", r, v, a, false); }},
    {"reject",
     [](Runtime& r, const Value& v, const Arguments& a) { return Filter(r, v, a, 0, false); }},
    {"rejectattr",
     [](Runtime& r, const Value& v, const Arguments& a) { return Filter(r, v, a, 1, false); }},
    {"reverse", Reverse},
    {"select",
     [](Runtime& r, const Value& v, const Arguments& a) { return Filter(r, v, a, 0, true); }},
    {"selectattr",
     [](Runtime& r, const Value& v, const Arguments& a) { return Filter(r, v, a, 1, true); }},
    {"sort", Sort},
    {"sum", Sum},
    {"unique", Unique},
};

const FilterRow* FindFilter(std::string_view name) {
  for (const auto rows : {ScalarFilters(), SequenceFilters()}) {
    const auto row = std::ranges::find(rows, name, &FilterRow::name);
    if (row != rows.end()) return &*row;
  }
  return nullptr;
}

}  // namespace

std::span<const FilterRow> SequenceFilters() { return kSequenceFilters; }

bool HasFilter(std::string_view name) { return FindFilter(name) != nullptr; }

Value ApplyFilter(Runtime& runtime, std::string_view name, const Value& value,
                  const Arguments& arguments) {
  const FilterRow* row = FindFilter(name);
  FIREQ_CHECK(row != nullptr, kUnsupported, "the filter '", name, "' is not supported");
  runtime.budget.Charge(value.weight());
  return row->filter(runtime, value, arguments);
}

}  // namespace fireq::jinja
