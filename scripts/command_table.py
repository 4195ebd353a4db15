"""Every command with its options, asked of the parsers themselves: the program's own (`paritrace --describe`) and argparse's.

What is made of it (scripts/shell_files.py, the docs' list of options) therefore cannot name an option that is not there.
"""

import argparse
import importlib
import json
import os
import subprocess
from dataclasses import dataclass, field


@dataclass
class Option:
    """names: [] for a positional argument; value: what it takes, "" for a flag."""

    names: list
    help: str
    value: str = ""
    choices: list = field(default_factory=list)
    required: bool = False
    default: str = ""

    @property
    def longest(self):
        return max(self.names, key=len)


@dataclass
class Command:
    """name: `diff`, or `capture hf`; kinds: the words that may follow `capture`."""

    name: str
    help: str
    options: list
    kinds: list = field(default_factory=list)
    epilog: str = ""

    @property
    def arguments(self):
        return [option for option in self.options if not option.names]

    @property
    def flags(self):
        return [option for option in self.options if option.names]


def _from_program(described):
    options = []
    for entry in described["options"]:
        value = entry.get("value", entry.get("argument", ""))
        option = Option(entry["names"], _sentence(entry["help"]), value.partition(":")[0])
        option.required, option.default = entry.get("required", False), entry.get("default", "")
        options.append(option)
    return Command(described["name"], described["help"], options)


def _sentence(text):
    return "print this help" if text.lower().startswith(("print this help", "show this help")) else text


def _from_argparse(name, parser, summary=""):
    """A list: the command, and one for each word that may follow it."""
    command = Command(name, summary or parser.description, [], epilog=parser.epilog or "")
    commands = [command]
    for action in parser._actions:  # argparse has no public list of its arguments
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            command.kinds = list(action.choices)
            for kind, inner in action.choices.items():
                commands += _from_argparse(f"{name} {kind}", inner, helps.get(kind, ""))
            continue
        takes = action.nargs != 0
        value = (action.metavar or "|".join(action.choices or ()) or action.dest.upper()) if takes else ""
        option = Option(list(action.option_strings), _sentence(action.help or ""), value, list(action.choices or ()))
        option.required = action.required
        command.options.append(option)
    return commands


def program():
    """The program: the build under test where PARITRACE_BIN names one, else the installed one."""
    from paritrace.__main__ import program as installed

    return os.environ.get("PARITRACE_BIN") or str(installed())


def read():
    """Returns (description, version, [Command]): the program's commands, then those that run in Python."""
    from paritrace.__main__ import PYTHON_COMMANDS

    done = subprocess.run([program(), "--describe"], capture_output=True, text=True, check=True)
    described = json.loads(done.stdout)
    commands = [_from_program(entry) for entry in described["commands"]]
    for name, home in PYTHON_COMMANDS.items():
        if any(command.name == name for command in commands):
            continue
        module = importlib.import_module(f"paritrace.{home}")
        commands += _from_argparse(name, module._parser())
    return described["description"], described["version"], commands
