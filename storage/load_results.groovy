// Loads what Microtome found into the images of a QuPath project (0.4 to 0.7), by their names.
//
// In QuPath: Automate > Script editor, open this file, then Run > Run for project.
// Without a window: QuPath script -p project.qpproj -s -a RESULTS load_results.groovy
//
// Running it again replaces what it loaded before; what people drew stays. It was checked against
// QuPath's source, and has not been run.

import qupath.lib.color.ColorMaps
import qupath.lib.gui.tools.MeasurementMapper
import qupath.lib.io.PathIO

// The map shows the first of these that there is; Measure > Show measurement maps lists them all.
def wanted = ['score rank', 'probability', 'cluster distance']

def places = args.size() > 0 ? [args[0]] : [@FOLDER@, buildPathInProject('results')]
def folder = places.find { new File(it).isDirectory() }
if (folder == null) {
    println "no folder of results: ${places.join(', ')}"
    return
}

def name = getCurrentImageNameWithoutExtension()
def files = ['', '.tiles', '.clusters', '.tissue'].collectMany { kind ->
    ['.geojson.gz', '.geojson'].collect { new File(folder, name + kind + it) }
}.findAll { it.exists() }
if (files.isEmpty()) {
    println "${name}: no result in ${folder}"
    return
}

files.each { file ->
    def found = new ArrayList(PathIO.readObjects(file))
    def ids = found.collect { it.getID() } as Set
    def old = (getDetectionObjects() + getAnnotationObjects()).findAll { ids.contains(it.getID()) }
    removeObjects(old, true)
    addObjects(found)
    println "${name}: ${found.size()} objects of ${file.name}"
}

// Without a window there is no viewer, and no map to set up.
def viewer = getCurrentViewer()
def tiles = getDetectionObjects()
def shown = wanted.find { one -> tiles.any { !Double.isNaN(measurement(it, one)) } }
if (viewer != null && shown != null) {
    def all = ColorMaps.getColorMaps()
    def colours = all.get('Viridis') ?: all.values().first()
    def options = viewer.getOverlayOptions()
    options.setMeasurementMapper(new MeasurementMapper(colours, shown, tiles))
    options.setFillDetections(true)
}
