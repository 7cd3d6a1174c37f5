"""What CloudFormation makes of a template and parameters, as far as the tests need it."""

from __future__ import annotations

import json
import re
from pathlib import Path

DEPLOY = Path(__file__).parents[1] / "config/deploy"

PSEUDO = {
    "AWS::AccountId": "111122223333",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "inventory",
}
NOTHING = object()


def load(name):
    """A template of config/deploy by its file's name."""
    from cfnlint.decode import decode_str

    template, problems = decode_str((DEPLOY / name).read_text(encoding="utf-8"))
    assert not problems
    return json.loads(json.dumps(template))


def resolved(name, **parameters):
    """The resources of a template with these parameters and the defaults of the others put in.

    A reference to a resource becomes its logical name in angle brackets, and one to an attribute
    of it `<Name.Attribute>`; a resource whose condition does not hold is left out.
    """
    template = load(name)
    declared = template["Parameters"]
    given = {key: each["Default"] for key, each in declared.items() if "Default" in each}
    given |= parameters
    assert given.keys() == declared.keys()
    for key, value in given.items():
        assert re.fullmatch(declared[key].get("AllowedPattern", ".*"), str(value)), key
        assert value in declared[key].get("AllowedValues", [value]), key
    known = given | PSEUDO | {key: f"<{key}>" for key in template["Resources"]}
    conditions = template.get("Conditions", {})
    return {
        key: resolve(resource["Properties"], known, conditions)
        for key, resource in template["Resources"].items()
        if resolve({"Condition": resource.get("Condition")}, known, {None: True} | conditions)
    }


def resolve(value, given, conditions):
    """A part of a template with its parameters and conditions put in."""

    def inner(part):
        return resolve(part, given, conditions)

    functions = {
        "Ref": lambda name: NOTHING if name == "AWS::NoValue" else given[name],
        "Condition": lambda name: inner(conditions[name]),
        "Fn::Equals": lambda sides: inner(sides[0]) == inner(sides[1]),
        "Fn::Not": lambda several: not inner(several[0]),
        "Fn::Or": lambda several: any(inner(several)),
        "Fn::If": lambda parts: inner(parts[1] if inner(conditions[parts[0]]) else parts[2]),
        "Fn::GetAtt": lambda path: f"<{'.'.join(path)}>",
        "Fn::Sub": lambda text: re.sub(r"\$\{(.*?)\}", lambda name: known(name[1]), text),
    }

    def known(name):
        return str(given[name]) if name in given else f"<{name}>"

    if isinstance(value, list):
        items = [inner(item) for item in value]
        return [item for item in items if item is not NOTHING]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, argument),) = value.items()
        if name in functions and not isinstance(argument, dict):
            return functions[name](argument)
    items = {key: inner(item) for key, item in value.items()}
    return {key: item for key, item in items.items() if item is not NOTHING}
