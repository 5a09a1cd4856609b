# Runs `intermoe ARGUMENTS` as a Ray job, with the Python of the Ray that runs the job: `python` on the PATH of
# `ray start` may be another one. The job's supervisor, which is the parent process, has Ray's library mapped:
# PREFIX/lib/python3.X/site-packages/ray/_raylet.so belongs to PREFIX/bin/python.
prefix=$(sed -n 's|^[^/]*\(/.*\)/lib[^/]*/python3[^/]*/[^/]*-packages/ray/_raylet\.so$|\1|p' "/proc/$PPID/maps" 2>/dev/null |
    head -n 1)
for python in "$prefix/bin/python" "$prefix/bin/python3"; do
    [ -n "$prefix" ] && [ -x "$python" ] && exec "$python" -m pipelines.cli "$@"
done
python=$(command -v python3 || command -v python)
if [ -z "$python" ]; then
    echo "error: the cluster has no Python on its PATH" >&2
    exit 127
fi
exec "$python" -m pipelines.cli "$@"
