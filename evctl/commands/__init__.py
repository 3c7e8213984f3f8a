"""One file a verb: a plain function with annotated parameters: resolve, one use case, render; returns its exit code.

    def status(run: RunRef = None, env: Env = None, output: Output = Format.table, ...) -> int:
        found = resolve.run(run, env)                                # resolve
        result = found.backend.get(found.run_id)                     # one use case
        emit(result, output, views.run_lines, run_document)          # render
        return exit_code_of(result)

A verb is registered by one line in `evctl.cli.VERBS`.
"""
