// The report of a comparison: one viewer paints every structure as a still picture, another turns the one that is opened.
const { structures, elements } = JSON.parse(document.getElementById("data").textContent);

function newViewer(parent) {
  const stage = document.createElement("div");
  stage.className = "stage";
  parent.append(stage);
  const viewer = $3Dmol.createViewer(stage, { backgroundAlpha: 0, antialias: true, disableFog: true });
  if (!viewer || !stage.querySelector("canvas")) throw new Error("this browser has no WebGL");
  return viewer;
}

function paintAll() {
  const backstage = document.createElement("div");
  backstage.className = "view";
  backstage.style.cssText = "position:fixed;left:-400px;top:0;width:320px;height:240px";
  document.body.append(backstage);
  const painter = newViewer(backstage);
  for (const button of document.querySelectorAll("button.view")) {
    draw(painter, structures[button.dataset.structure]);
    const picture = new Image();
    picture.src = painter.pngURI();
    picture.alt = "";
    button.replaceChildren(picture);
    button.disabled = false;
  }
}

let large = null;

addEventListener("click", ({ target }) => {
  const button = target.closest("button.view");
  if (!button) return;
  const dialog = document.getElementById("detail");
  document.getElementById("detail-title").textContent = button.title;
  dialog.showModal();
  large ??= newViewer(dialog.querySelector(".view"));
  large.resize();
  draw(large, structures[button.dataset.structure]);
});

try {
  paintAll();
} catch (error) {
  document.getElementById("count").append(` · ${error.message}, so the cells are not drawn`);
}
