"""Makes pydantic's types of docs/contract/ and reads and writes every example with them, and with quicktype's.

Run by ops/contract --types, behind generate.mjs:  round_trip.py FOLDER, where the generators are installed.
"""

import datetime
import importlib.util
import json
import pathlib
import sys

from datamodel_code_generator import DataModelType, InputFileType, PythonVersion, generate

CONTRACT = pathlib.Path(__file__).parents[2] / "docs/contract"
MADE = pathlib.Path(sys.argv[1]) / "made"
# The root type of each document, and the folder of its examples.
DOCUMENTS = {"request-types": ("TurnRequest", "requests"), "event": ("TurnEvent", "events"), "control": ("Control", "control"), "description": ("TurnDescription", "descriptions")}
# They show what is ignored, and no type has that, see generate.mjs.
IGNORED = {
    "a-broken-trace-is-absent",
    "blocks-are-joined",
    "cancel-null-is-absent",
    "images-of-other-messages-are-ignored",
    "null-is-absent",
    "user-messages-without-text-are-skipped",
}
# What quicktype's Python does not hold: unknown fields, a null, and 60.0 where an int is expected.
NOT_QUICKTYPE = {
    "cancel-with-unknown-fields",
    "message_end-structured-null",
    "numbers-written-with-a-fraction",
    "unknown-fields-are-ignored",
}


def examples(folder):
    for path in sorted((CONTRACT / "examples/v1" / folder).glob("*.json")):
        if path.name.count(".") == 1 and path.stem not in IGNORED:
            yield path.stem, json.loads(path.read_text())


def same_times(value):
    """A time in each spelling is one time."""
    if isinstance(value, dict):
        return {name: same_times(part) for name, part in value.items()}
    if isinstance(value, list):
        return [same_times(part) for part in value]
    if isinstance(value, str) and value[4:5] == "-" and "T" in value:
        return datetime.datetime.fromisoformat(value)
    return value


def pydantic(name, root):
    folder = MADE / "pydantic"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name.replace('-', '_')}.py"
    generate(
        CONTRACT / f"{name}.schema.json",
        input_file_type=InputFileType.JsonSchema,
        output=file,
        output_model_type=DataModelType.PydanticV2BaseModel,
        target_python_version=PythonVersion.PY_311,
        allow_extra_fields=True,
        use_title_as_name=True,
        class_name=root,
        formatters=[],
    )
    model = getattr(imported("pydantic", file), root)
    return lambda value: json.loads(model.model_validate(value).model_dump_json(exclude_unset=True, by_alias=True))


def quicktype(name, root):
    kind = getattr(imported("quicktype", MADE / "quicktype" / f"{name.replace('-', '_')}.py"), root)
    return lambda value: kind.from_dict(value).to_dict()


def imported(generator, file):
    spec = importlib.util.spec_from_file_location(f"{generator}_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main():
    wrong = 0
    for generator in (pydantic, quicktype):
        for name, (root, of) in DOCUMENTS.items():
            again, count = generator(name, root), 0
            for example, value in examples(of):
                if generator is quicktype and example in NOT_QUICKTYPE:
                    continue
                count += 1
                try:
                    found = again(value)
                except Exception as error:  # noqa: BLE001  # a generated type may raise anything
                    found = error
                if isinstance(found, Exception) or same_times(found) != same_times(value):
                    print(f"✗ {generator.__name__}: {name}: {example} came back as {found}", file=sys.stderr)
                    wrong = 1
            print(f"✓ {generator.__name__}: {count} examples of {name} read and written")
    return wrong


sys.exit(main())
