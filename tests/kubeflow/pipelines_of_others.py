"""Pipelines as other people write them, compiled by kfp itself. No postponed annotations: kfp reads the components' own."""

import contextlib
import functools
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any, List  # noqa: UP035 - kfp's own spelling

import yaml


@functools.cache
def compiled(name: str) -> dict[str, Any]:
    """Return a pipeline's spec."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        from kfp import compiler

        target = Path(folder) / "p.yaml"
        compiler.Compiler().compile(_pipelines()[name], str(target))
        return dict(next(yaml.safe_load_all(target.read_text())))


@functools.cache
def _pipelines() -> dict[str, Any]:
    from kfp import dsl

    def component(function: Any) -> Any:
        return dsl.component(function, base_image="python:3.11", install_kfp_package=False)

    @component
    def numbers() -> List[int]:  # noqa: UP006
        return [1, 2, 3]

    @component
    def work(part: int) -> int:
        return part

    @component
    def check(part: int) -> float:
        return 0.5

    @component
    def flip() -> str:
        return "heads"

    @component
    def total(parts: List[int]) -> int:  # noqa: UP006
        return sum(parts)

    @component
    def train(data: dsl.Input[dsl.Dataset], rate: float, model: dsl.Output[dsl.Model]) -> float:
        return rate

    @component
    def tell(said: str) -> None: ...

    @component
    def cleanup(status: dsl.PipelineTaskFinalStatus) -> None: ...

    @dsl.container_component
    def shell(word: str):  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image="alpine", command=["echo"], args=[word])

    @dsl.pipeline(name="branches")
    def branches(bound: float = 0.9) -> None:
        coin = flip()
        score = check(part=1)
        with dsl.If(coin.output == "heads", name="heads"):
            left = work(part=1)
            with dsl.If(score.output >= bound, name="good enough"):
                tell(said="nested")
        with dsl.Elif(coin.output == "tails"):
            middle = work(part=2)
        with dsl.Else():
            right = work(part=3)
        work(part=dsl.OneOf(left.output, middle.output, right.output))

    @dsl.pipeline(name="loops")
    def loops() -> int:
        given = numbers()
        with dsl.ParallelFor(given.output, name="shards", parallelism=2) as part:
            done = work(part=part).set_retry(num_retries=2)
            check(part=done.output)
            with dsl.ParallelFor([1, 2]) as inner:
                work(part=inner)
        return total(parts=dsl.Collected(done.output)).output

    @dsl.pipeline(name="inner")
    def inner(rate: float) -> float:
        data = dsl.importer(artifact_uri="s3://b/data.csv", artifact_class=dsl.Dataset)
        data.set_display_name("the data")
        handler = cleanup()
        with dsl.ExitHandler(handler):
            train(data=data.output, rate=rate)
        return check(part=1).output

    @dsl.pipeline(name="twice")
    def twice() -> None:
        first = inner(rate=0.1).set_display_name("slow one")
        second = inner(rate=0.2)
        with dsl.If(first.output >= 0.05):
            shell(word="a")
        total(parts=[1]).after(second)

    @dsl.pipeline(name="Trois fois – été")
    def thrice() -> None:
        data = dsl.importer(artifact_uri="s3://b/data.csv", artifact_class=dsl.Dataset)
        for rate in (0.1, 0.2, 0.3):
            train(data=data.output, rate=rate).set_display_name(f"rate {rate}")

    @dsl.container_component
    def createpvc(name: dsl.OutputPath(str), size: str):  # type: ignore[valid-type,no-untyped-def]
        """As kfp-kubernetes makes it: Kubeflow's driver makes the claim, and there is no pod of its own."""
        return dsl.ContainerSpec(image="argostub/createpvc")

    @dsl.container_component
    def deletepvc(pvc_name: str):  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image="argostub/deletepvc")

    @dsl.pipeline(name="claims")
    def claims() -> None:
        claim = createpvc(size="1Gi")
        used = work(part=1).after(claim)
        deletepvc(pvc_name=claim.outputs["name"]).after(used)

    @dsl.pipeline(name="handlers")
    def handlers() -> None:
        one, two = cleanup(), cleanup()
        with dsl.ExitHandler(one, name="first half"):
            before = work(part=1)
            with dsl.ParallelFor([1, 2]) as part:
                check(part=part)
                with dsl.If(part == 2):
                    tell(said="a")
        with dsl.ExitHandler(two):
            tell(said="b")
        del before

    return {
        "branches": branches, "loops": loops, "twice": twice, "thrice": thrice, "claims": claims, "handlers": handlers,
    }  # fmt: skip
