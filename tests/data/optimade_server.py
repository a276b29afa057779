"""A real OPTIMADE server (optimade-python-tools over mongomock) with the entries of a JSON file: ``PORT FILE``."""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    config = file.with_suffix(".config.json")
    config.write_text(json.dumps({"database_backend": "mongomock", "insert_test_data": False, "page_limit": 3}))
    os.environ["OPTIMADE_CONFIG_FILE"] = str(config)

    import uvicorn
    from optimade.server.main import app

    app.state.entry_collections["structures"].insert(json.loads(file.read_text()))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")
