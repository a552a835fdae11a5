"""What the report and the viewer share: templates, one stylesheet, charts as SVG. Pure: no files of a run, no network."""
