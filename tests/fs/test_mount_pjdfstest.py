"""The public POSIX conformance suite on the mount. PJDFSTEST names a built copy of it (the folder that holds the program
pjdfstest and tests/); it is not part of this project."""
import glob
import os
import re
import subprocess
import tempfile

from mount_fixture import Mount, run_tests, skip

SUITE = os.environ.get("PJDFSTEST", "")


def results(script, folder):
    """The numbers of the checks that failed, and how many there were. What the suite excuses on Linux does not count."""
    out = subprocess.run(["sh", script], cwd=folder, capture_output=True, text=True, timeout=300, check=False).stdout
    lines = [line for line in out.splitlines() if re.match("(not )?ok ", line)]
    plan = re.search(r"^1\.\.(\d+)", out, re.M)
    failed = [line for line in lines if line.startswith("not ok") and "# TODO" not in line]
    if not plan or len(lines) != int(plan[1]):
        failed.append(f"{len(lines)} checks of {plan and plan[1]}")
    return failed, len(lines)


def whole_suite():
    """What the backing filesystem passes, the mount passes."""
    with Mount() as mount:
        count, bad = 0, []
        folder = tempfile.mkdtemp(dir=mount.mount)
        os.chmod(folder, 0o755)
        for script in sorted(glob.glob(f"{SUITE}/tests/**/*.t", recursive=True)):
            failed, checks = results(script, folder)
            count += checks
            if failed:
                plain = tempfile.mkdtemp(dir=mount.dir)
                os.chmod(plain, 0o755)
                if failed != results(script, plain)[0]:
                    bad.append((os.path.relpath(script, SUITE), failed))
        assert count > 8000, count
        assert not bad, bad


if __name__ == "__main__":
    if not os.access(f"{SUITE}/pjdfstest", os.X_OK):
        skip("PJDFSTEST names no built copy of pjdfstest")
    run_tests([whole_suite])
