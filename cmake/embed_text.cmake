# Writes OUTPUT, a C++ file that holds the text of each of FILES: {file name without ending, text}.
set(content "// Generated from rules/*.toml.\n#include \"trace/embedded_rules.h\"\n\nnamespace paritrace {\n\nconst std::vector<EmbeddedRules>& AllEmbeddedRules() {\n  static const std::vector<EmbeddedRules> rules = {\n")
foreach(file IN LISTS FILES)
  get_filename_component(stem ${file} NAME_WE)
  file(READ ${file} text)
  string(APPEND content "    {\"${stem}\", R\"RULES(${text})RULES\"},\n")
endforeach()
string(APPEND content "  };\n  return rules;\n}\n\n}  // namespace paritrace\n")
file(WRITE ${OUTPUT} "${content}")
