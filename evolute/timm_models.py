"""``import evolute.timm_models`` makes ``timm.create_model("evolute", architecture=...)`` work.

So are the hand-made networks, such as ``evolute_rednet50``. Whatever loads the search space, as
``evolute.SearchSpace`` does, has registered them already.
"""

from evolute.rooms import check_rooms

check_rooms("search_space")

import search_space as search_space  # noqa: E402  (registers its models as it is imported)
