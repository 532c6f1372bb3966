"""The experiment: networks x widths x resolutions x seeds, each a training run of its own, and the table of them all.

Reading order: `request` (what is asked for) -> `folder` (where it lies) -> `scheduling` (who trains what, and what
becomes of a death) -> `processes` and `on_ray` (where) -> `cell` (the training itself) -> `table` (what came out) ->
`exporting` (export, parity and latency of each) -> `page` (charts) -> `running` (all of it in order).
"""
