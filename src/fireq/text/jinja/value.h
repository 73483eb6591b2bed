// Values of template expressions: Python's, as far as chat templates use them.
//
// Immutable but for namespaces, so copies share. Composite values know their weight (nodes and
// bytes, shared parts counted as often as they are reachable) and depth; both are bounded when the
// value is made, so that walking, printing or freeing any value is bounded as well.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fireq::jinja {

inline constexpr int64_t kMaxWeight = int64_t{64} << 20;
inline constexpr int kMaxValueDepth = 100;

class Value;

using List = std::vector<Value>;
using Items = std::vector<std::pair<Value, Value>>;  // in insertion order

// Arguments of a call.
struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Something with attributes or that can be called: macros, bound methods, loop, namespace.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string TypeName() const = 0;
  virtual bool callable() const { return false; }
  // Throws kInvalidArgument unless overridden.
  virtual Value Call(const Arguments& arguments);
  // The attribute, or Undefined.
  virtual Value Attribute(std::string_view name) const;
  // False if the object takes no assignments.
  virtual bool SetAttribute(std::string_view name, const Value& value);
};

class Value {
 public:
  enum class Type {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kList,
    kTuple,
    kDict,
    kObject
  };

  Value() = default;                         // undefined
  static Value Undefined(std::string name);  // remembers what was not found
  static Value None();
  static Value Bool(bool b);
  static Value Int(int64_t i);
  static Value Float(double d);
  // Errors of the composite ones: kUnsupported when too heavy or too deep.
  static Value String(std::string s);
  static Value MakeList(List items);
  static Value Tuple(List items);
  // A tuple whose items have names, too, as literals: Python's NamedTuple.
  static Value NamedTuple(std::vector<std::string_view> names, List items);
  // Later entries replace earlier ones of an equal key, keeping their place. Keys are strings,
  // integers, booleans, None or floats; others throw kUnsupported.
  static Value Dict(Items items);
  static Value Of(std::shared_ptr<Object> object);
  // Objects in the order of `json`, which nlohmann::json has sorted by key.
  static Value FromJson(const nlohmann::json& json);
  static Value FromJson(const nlohmann::ordered_json& json);

  Type type() const { return type_; }
  bool Is(Type type) const { return type_ == type; }
  bool IsNumber() const { return type_ == Type::kInt || type_ == Type::kFloat || Is(Type::kBool); }
  bool IsSequence() const { return type_ == Type::kList || type_ == Type::kTuple; }

  // Each for its type only (bool and int for AsInt; any number for AsFloat).
  int64_t AsInt() const { return number_.i; }
  double AsFloat() const { return Is(Type::kFloat) ? number_.d : static_cast<double>(number_.i); }
  bool AsBool() const { return number_.i != 0; }
  const std::string& AsString() const { return *static_cast<const std::string*>(data_.get()); }
  const List& AsList() const { return list_data().items; }
  const Items& AsDict() const { return dict_data().items; }
  Object* AsObject() const { return static_cast<Object*>(data_.get()); }
  // For undefined: what was looked up, e.g. "message.role".
  std::string UndefinedName() const;

  // The entry of a dict, or nullptr.
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;

  // The item that a named tuple calls `name`, or nullptr.
  const Value* Field(std::string_view name) const;

  int64_t weight() const;
  int depth() const;

  bool Truthy() const;
  // "str", "dict", ... as Python calls them.
  std::string TypeName() const;
  // Python's str() and repr().
  std::string ToString() const;
  void AppendRepr(std::string& out) const;

 private:
  struct ListData {
    List items;
    std::vector<std::string_view> names;  // of a named tuple's items
    int64_t weight = 1;
    int depth = 1;
  };
  struct DictData {
    Items items;
    std::vector<uint32_t> order;  // of the keys, sorted: looked up by bisection
    int64_t weight = 1;
    int depth = 1;
  };
  static std::shared_ptr<ListData> ShareList(List items);
  const ListData& list_data() const { return *static_cast<const ListData*>(data_.get()); }
  const DictData& dict_data() const { return *static_cast<const DictData*>(data_.get()); }

  Type type_ = Type::kUndefined;
  union {
    int64_t i;
    double d;
  } number_ = {0};
  // By type: std::string (also the name of an undefined), ListData, DictData, Object.
  std::shared_ptr<void> data_;
};

// Python's == and <. Less throws kInvalidArgument, naming both types, where Python does.
bool Equal(const Value& a, const Value& b);
bool Less(const Value& a, const Value& b);

// repr of a float: the shortest digits that read back the same, with ".0" where needed.
std::string FloatRepr(double d);

// How json.dumps writes.
struct JsonStyle {
  int indent = -1;  // negative: on one line
  bool sort_keys = false;
  bool ensure_ascii = false;
  std::string item_separator = ", ";  // "," where there is an indent
  std::string key_separator = ": ";
};

// json.dumps(value, ...).
std::string ToJson(const Value& value, const JsonStyle& style);

inline Value Text(std::string_view text) { return Value::String(std::string(text)); }

}  // namespace fireq::jinja
