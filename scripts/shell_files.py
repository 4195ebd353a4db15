#!/usr/bin/env python3
"""Writes the man page and the completions of bash, zsh and fish into share/, and the docs' list of options, from the parsers' own
table of commands; and the docs' list of JSON keys, from the schemas.

    scripts/shell_files.py            writes them
    scripts/shell_files.py --check    says which are not what the parsers say; exit code 1
They are committed, so that a build needs no Python; tests/python/test_shell_files.py holds them against --help.
"""

import re
import sys
from pathlib import Path

import command_table
import schema_page

ROOT = Path(__file__).resolve().parents[1]
EXITS = (
    ("0", "parity: identical, or within what the subject's arithmetic explains"),
    ("1", "diverged"),
    ("2", "bad usage or bad input; one line on standard error names the file and the place"),
    ("3", "nothing to compare: no site in common, other tokens, another model"),
    ("70", "a mistake of ours; the place in our source is printed"),
)


def summary(text):
    """The first sentence, for a list."""
    return text.split(". ")[0].split("; ")[0].rstrip(".")


# --- man page ------------------------------------------------------------------------------------------------------
def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("×", "x")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.splitlines())


def synopsis(command):
    if command.kinds:
        return "|".join(command.kinds) + " [OPTIONS]"
    words = ["[OPTIONS]"]
    words += [f"{option.longest} {option.value}" for option in command.flags if option.required]
    words += [option.value if option.required else f"[{option.value}]" for option in command.arguments]
    return " ".join(words)


def option_head(option):
    names = ", ".join(f"\\fB{roff(name)}\\fR" for name in option.names)
    value = f"\\fI{roff(option.value)}\\fR" if option.value else ""
    return " ".join(part for part in (names, value) if part)


def man_page(description, version, commands):
    lines = [
        f'.TH PARITRACE 1 "" "paritrace {version}" "User Commands"',
        ".SH NAME",
        "paritrace \\- " + roff(description[0].lower() + description[1:].rstrip(".")),
        ".SH SYNOPSIS",
        ".B paritrace",
        "\\fICOMMAND\\fR [\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        "The reference is the engine that is trusted, the subject the one under test; both are traces: a directory that",
        "\\fBparitrace capture\\fR or the capture library wrote, or one .safetensors file. MODEL is a Hugging Face folder",
        "(config.json and safetensors) or a .gguf file: what the subject should be computing with.",
        ".SH COMMANDS",
    ]
    for command in commands:
        lines.append(f'.SS "{roff(command.name)} {roff(synopsis(command))}"')
        lines.append(roff(command.help[0].upper() + command.help[1:].rstrip(".") + "."))
        for option in command.options:
            text = option.help[:1].upper() + option.help[1:] if option.help else ""
            if option.default:
                text += f" (default {option.default})"
            lines += [".TP", option_head(option), roff(text.rstrip(".") + ".") if text else "\\&"]
    lines.append(".SH EXIT STATUS")
    for code, what in EXITS:
        lines += [".TP", f".B {code}", roff(what) + "."]
    lines += [
        ".SH ENVIRONMENT",
        ".TP", ".B NO_COLOR", "Set to anything: no colour on a terminal.",
        ".TP", ".B PARITRACE_THREADS", "Threads to use; all cores where it is not set. Results do not depend on it.",
        ".TP", ".B PARITRACE_PYTHON", "The interpreter that runs the commands which need engines or tokenizers.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


# --- completions ---------------------------------------------------------------------------------------------------
def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def words_of(command):
    return [name for option in command.flags for name in option.names] + command.kinds


def bash(commands):
    tops = [command.name for command in commands if " " not in command.name]
    kinds = [command.name for command in commands if command.kinds]
    lines = [
        "# Completion of paritrace for bash. Written by scripts/shell_files.py.",
        "_paritrace() {",
        '  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} words=""',
        "  COMPREPLY=()",
        "  if ((COMP_CWORD == 1)); then",
        f'    COMPREPLY=($(compgen -W "{" ".join(tops)} --help --version" -- "$word"))',
        "    return",
        "  fi",
        "  case $command in",
        f'    {" | ".join(kinds)}) ((COMP_CWORD == 2)) || command="$command ${{COMP_WORDS[2]}}" ;;',
        "  esac",
        '  case "$command $before" in',
    ]
    for command in commands:
        for option in command.flags:
            if option.choices:
                lines += [
                    f'    "{command.name} {name}") COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$word")) && return ;;'
                    for name in option.names
                ]
    lines += ["  esac", "  case $command in"]
    for command in commands:
        pattern = f'"{command.name}"' if " " in command.name else command.name
        lines.append(f'    {pattern}) words="{" ".join(words_of(command))}" ;;')
    lines += [
        "  esac",
        '  case "$word:$command" in',
        '    -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;',
        *(f'    *:{kind}) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;' for kind in kinds),
        '    *) COMPREPLY=($(compgen -f -- "$word")) ;;',
        "  esac",
        "}",
        "complete -o filenames -F _paritrace paritrace",
    ]
    return "\n".join(lines) + "\n"


def zsh_action(option):
    if option.choices:
        return f"({' '.join(option.choices)})"
    return "_files" if takes_file(option) else " "


def takes_file(option):
    """Whether the value is a path: not a number, a list of ids, a text or a name."""
    words = set(re.split("[^A-Z]+", option.value))
    return bool(words & {"FILE", "MODEL", "REF", "SUB", "TRACE", "DIR", "PLAN", "IN"})


def zsh_text(text):
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def zsh_specs(command):
    specs = []
    for option in command.flags:
        for name in option.names:
            tail = f":{zsh_text(option.value)}:{zsh_action(option)}" if option.value else ""
            specs.append(quoted(f"*{name}[{zsh_text(summary(option.help))}]{tail}"))
    for option in command.arguments:
        specs.append(quoted(f"{':' if option.required else '::'}{zsh_text(option.value)}:_files"))
    return specs


def zsh(commands):
    tops = [command for command in commands if " " not in command.name]
    lines = [
        "#compdef paritrace",
        "# Completion of paritrace for zsh. Written by scripts/shell_files.py.",
        "local -a commands",
        "commands=(",
        *(f"  {quoted(f'{command.name}:{zsh_text(summary(command.help))}')}" for command in tops),
        ")",
        "if ((CURRENT == 2)); then",
        "  _describe command commands",
        "  _arguments '--help[print this help]' '--version[print the version]'",
        "  return",
        "fi",
        "local command=$words[2]",
        "shift words",
        "((CURRENT--))",
        "case $command in",
    ]
    for command in tops:
        lines.append(f"  {command.name})")
        if command.kinds:
            inner = {kind: next(c for c in commands if c.name == f"{command.name} {kind}") for kind in command.kinds}
            lines += [
                f"    if ((CURRENT == 2)); then _values kind {' '.join(command.kinds)}; return; fi",
                "    local kind=$words[2]",
                "    shift words",
                "    ((CURRENT--))",
                "    case $kind in",
            ]
            for kind, own in inner.items():
                lines.append(f"      {kind}) _arguments {' '.join(zsh_specs(own))} ;;")
            lines.append("    esac ;;")
        else:
            lines.append(f"    _arguments {' '.join(zsh_specs(command))} ;;")
    return "\n".join([*lines, "esac"]) + "\n"


def fish(commands):
    tops = [command for command in commands if " " not in command.name]
    lines = [
        "# Completion of paritrace for fish. Written by scripts/shell_files.py.",
        "complete -c paritrace -n __fish_use_subcommand -f -l help -d 'print this help'",
        "complete -c paritrace -n __fish_use_subcommand -f -l version -d 'print the version'",
    ]
    for command in tops:
        lines.append(
            f"complete -c paritrace -n __fish_use_subcommand -f -a {command.name} -d {fish_text(summary(command.help))}"
        )
    for command in commands:
        top, _, kind = command.name.partition(" ")
        condition = f"__fish_seen_subcommand_from {top}"
        if kind:
            condition += f"; and __fish_seen_subcommand_from {kind}"
        for word in command.kinds:
            others = " ".join(command.kinds)
            lines.append(
                f"complete -c paritrace -n '{condition}; and not __fish_seen_subcommand_from {others}' -f -a {word}"
            )
        for option in command.flags:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            value = ""
            if option.choices:
                value = f" -x -a '{' '.join(option.choices)}'"
            elif option.value:
                value = " -r" if takes_file(option) else " -x"
            lines.append(f"complete -c paritrace -n '{condition}' {names}{value} -d {fish_text(summary(option.help))}")
    return "\n".join(lines) + "\n"


def fish_text(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# --- docs ----------------------------------------------------------------------------------------------------------
def options_page(commands):
    """docs/options.md."""
    lines = [
        "# Every option",
        "",
        "Written by `make shell-files` from the commands' own parsers: what `--help` says. What the commands do, and why, stands in",
        "[commands](commands.md).",
    ]
    for command in commands:
        lines += [
            "",
            f"## `paritrace {command.name}`",
            "",
            command.help[0].upper() + command.help[1:].rstrip(".") + ".",
        ]
        lines += ["", f"    paritrace {command.name} {synopsis(command)}", ""]
        if not command.options:
            continue
        lines += ["| option | what |", "|---|---|"]
        for option in command.options:
            head = " ".join([", ".join(option.names), option.value]).strip()
            text = option.help + (f" (default {option.default})" if option.default else "")
            lines.append(f"| `{cell(head)}` | {cell(text)} |")
    return "\n".join(lines) + "\n"


def cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;")


def files():
    """{path in the repository: content}."""
    description, version, commands = command_table.read()
    return {
        "share/man/man1/paritrace.1": man_page(description, version, commands),
        "share/bash-completion/completions/paritrace": bash(commands),
        "share/zsh/site-functions/_paritrace": zsh(commands),
        "share/fish/vendor_completions.d/paritrace.fish": fish(commands),
        "docs/options.md": options_page(commands),
        "docs/schemas.md": schema_page.page(),
    }


def main():
    stale = 0
    for name, text in files().items():
        path = ROOT / name
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                print(f"{name}: not what the commands' --help says; run make shell-files")
                stale = 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
